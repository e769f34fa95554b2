"""The JSON of annotation files, and files that are something else."""

import gzip
import json
import math

import pytest

from maskrcnn_jax.data import annotation_files

EMPTY = {"images": [], "annotations": [], "categories": []}


def zipped(path):
    return b"PK\x03\x04" + b"\0" * 30


FILES = {
    "is a zip archive: unpack it": zipped,
    "is compressed with gzip": lambda path: gzip.compress(b"{}"),
    "is XML": lambda path: b"<?xml version='1.0'?><annotation/>",
    "pointer of Git LFS": lambda path: b"version https://git-lfs.github.com/spec/v1\noid",
    "is XML or a web page": lambda path: b"<!DOCTYPE html><html></html>",
    "is empty": lambda path: b" \n",
    "is not valid JSON: line 1": lambda path: b"{'images': []}",
    "LabelMe's format": lambda path: b'{"shapes": [], "imagePath": "0.jpg", "version": "5"}',
    "VIA's format": lambda path: b'{"_via_settings": {}}',
    "this is GeoJSON": lambda path: b'{"type": "FeatureCollection", "features": []}',
    "holds detections, not annotations": lambda path: b'[{"image_id": 1, "score": 0.5}]',
    "Label Studio's own format": lambda path: b'[{"data": {}, "annotations": []}]',
    "the file has shapes, version": lambda path: b'{"shapes": [], "version": "5"}',
    "the file has info, licenses": lambda path: b'{"info": 1, "licenses": []}',
}


@pytest.mark.parametrize("message", FILES)
def test_another_file_is_called_what_it_is(tmp_path, message):
    path = tmp_path / "instances.json"
    path.write_bytes(FILES[message](path))
    with pytest.raises(ValueError, match="instances.json.*" + message):
        annotation_files.load(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_byte_order_marks_are_read(tmp_path, encoding):
    content = EMPTY | {"categories": [{"id": 1, "name": "K\u00e4fer"}]}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert annotation_files.load(path) == content


def test_annotation_files_that_are_no_json(tmp_path):
    path = tmp_path / "instances.json"
    with pytest.raises(FileNotFoundError, match="there is no annotation file .*instances.json"):
        annotation_files.load(path)
    path.write_text('{"images": [],\n "annotations": [,]}')
    with pytest.raises(ValueError, match="instances.json.*line 2"):
        annotation_files.load(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="instances.json is nested too deeply"):
        annotation_files.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="instances.json is not a text file"):
        annotation_files.load(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="instances.json: expected an object with images, ann"):
        annotation_files.load(path)


@pytest.mark.parametrize("key", EMPTY)
def test_a_list_is_asked_for_by_its_key(tmp_path, key):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(EMPTY | {key: {"a": 1}}))
    with pytest.raises(ValueError, match=f"a list under the key '{key}', got {{'a': 1}}"):
        annotation_files.load(path)
    path.write_text(json.dumps({k: v for k, v in EMPTY.items() if k != key}))
    with pytest.raises(ValueError, match=f"a list under the key '{key}'; the file has "):
        annotation_files.load(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: give the json file in it"):
        annotation_files.read(tmp_path)


def test_a_number_of_thousands_of_digits_is_not_a_number():
    """Python itself would refuse the whole file."""
    found = annotation_files.parse(b"[7, %s, %s]" % (b"1" * 5000, b"-" + b"2" * 300))
    assert found[0] == 7 and math.isnan(found[1]) and found[2] == -int("2" * 300)
