"""LabelMe's files."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.examples import (
    HEIGHT,
    WIDTH,
    agree,
    box,
    convert,
    disc,
    equal,
    photo,
    write,
)


def shape(kind, points, label="nut", **fields):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None} | fields


def content(*shapes, path="a.png", size=(HEIGHT, WIDTH)):
    return {
        "version": "5.4.1",
        "shapes": list(shapes),
        "imagePath": path,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def encoded(bitmap):
    file = io.BytesIO()
    Image.fromarray(bitmap).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


SQUARE = [[10, 5], [30, 5], [30, 20], [10, 20]]


def test_all_shapes(tmp_path):
    folder = tmp_path / "in"
    photo(folder / "a.png")
    part = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
    shapes = [
        shape("polygon", SQUARE),
        shape("rectangle", [[30, 20], [10, 5]], label="b"),
        shape("oriented_rectangle", SQUARE, label="o"),
        shape("circle", [[30, 20], [30, 32]], label="c"),
        shape("mask", [[50, 38], [52, 39]], label="d", mask=encoded(part)),
    ]
    write(folder / "a.json", content(*shapes))
    found, lines = convert(folder, tmp_path)
    pasted = box(0, 0, 0, 0)
    pasted[38:40, 50:53] = part
    assert lines == []
    (circle,) = found["a.png"].pop("c")
    assert agree(circle, disc(30, 20, 12, 12))
    expected = {
        "nut": [box(10, 5, 30, 20)],
        "b": [box(10, 5, 30, 20)],
        "o": [box(10, 5, 30, 20)],
        "d": [pasted],
    }
    assert equal(found, {"a.png": expected})


def test_a_mask_is_cut_at_the_border(tmp_path):
    photo(tmp_path / "in" / "a.png")
    ones = encoded(np.ones((4, 4), np.uint8))
    shapes = [shape("mask", [[x, y], [x + 3, y + 3]], mask=ones) for x, y in ((-2, -1), (58, 39))]
    write(
        tmp_path / "in" / "a.json", content(*shapes, shape("mask", [[90, 90], [93, 93]], mask=ones))
    )
    found, lines = convert(tmp_path / "in", tmp_path)
    assert equal(found, {"a.png": {"nut": [box(0, 0, 2, 3), box(58, 39, 60, 40)]}})
    assert len(lines) == 1 and "whose mask covers no pixel: object shapes[2] of a.json" in lines[0]


def test_shapes_of_a_group_are_one_object(tmp_path):
    photo(tmp_path / "in" / "a.png")
    other = [[40, 25], [50, 25], [50, 30], [40, 30]]
    mask = shape("mask", [[0, 0], [1, 1]], mask=encoded(np.ones((2, 2), np.uint8)), group_id=2)
    shapes = [
        shape("polygon", SQUARE, group_id=1),
        shape("polygon", other, group_id=1),
        shape("polygon", other, "b", group_id=1),
        shape("polygon", other, group_id=2),
        mask,
        shape("polygon", [[1, 1], [2, 2]], group_id=1),
    ]
    write(tmp_path / "in" / "a.json", content(*shapes))
    found, lines = convert(tmp_path / "in", tmp_path)
    second = box(40, 25, 50, 30)
    both = [box(10, 5, 30, 20) | second, second | box(0, 0, 2, 2)]
    assert equal(found, {"a.png": {"nut": both, "b": [second]}})
    assert lines == [
        "objects with a part that is no polygon; the part is left out: object shapes[0] of a.json"
    ]


BAD = {
    "fewer than 3 points": shape("polygon", [[1, 1], [9, 9]]),
    "objects left out, whose outline has values that are no numbers": shape(
        "polygon", [[1, 1], [9, "x"], [5, 3]]
    ),
    "whose mask lies outside": shape("polygon", [[100, 1], [110, 1], [110, 9]]),
    "whose shape needs two points": shape("rectangle", SQUARE),
    "whose radius is not positive": shape("circle", [[5, 5], [5, 5]]),
    "a line, which has no area": shape("line", [[1, 1], [9, 9]]),
    "a point, which has no area": shape("point", [[1, 1]]),
    "whose mask cannot be decoded": shape("mask", [[1, 1], [2, 2]], mask="bm8="),
    "of another size than its box": shape(
        "mask", [[1, 1], [9, 9]], mask=encoded(np.ones((2, 2), np.uint8))
    ),
    "whose class has no name": shape("polygon", SQUARE, label=""),
    "which are no objects with fields": 5,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_shape_costs_itself(tmp_path, reason):
    photo(tmp_path / "in" / "a.png")
    write(tmp_path / "in" / "a.json", content(BAD[reason], shape("polygon", SQUARE)))
    found, lines = convert(tmp_path / "in", tmp_path)
    assert equal(found, {"a.png": {"nut": [box(10, 5, 30, 20)]}})
    assert len(lines) == 1 and reason in lines[0] and lines[0].endswith("shapes[0] of a.json")


def bomb():
    """A PNG whose header says 60,000 x 60,000 pixels, in base64."""
    content = bytearray(base64.b64decode(encoded(np.ones((2, 2), np.uint8))))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return base64.b64encode(content).decode()


def test_numbers_and_masks_beyond_reason_cost_themselves(tmp_path):
    photo(tmp_path / "in" / "a.png")
    shapes = [
        shape("polygon", [[1, 1], [10**400, 9], [5, 3]]),
        shape("circle", [[5, 5], [5, 10**400]]),
        shape("mask", [[0, 0], [59_999, 59_999]], mask=bomb()),
        shape("mask", [[0, 0], [True, 1]], mask=encoded(np.ones((2, 2), np.uint8))),
        shape("polygon", SQUARE),
    ]
    write(tmp_path / "in" / "a.json", content(*shapes))
    found, lines = convert(tmp_path / "in", tmp_path)
    assert equal(found, {"a.png": {"nut": [box(10, 5, 30, 20)]}})
    text = "\n".join(lines)
    assert "3 objects left out, whose outline has values that are no numbers" in text
    assert "objects left out, whose mask cannot be decoded: object shapes[2] of a.json" in text


@pytest.mark.parametrize("name", ["a.png\0.png", "\ud800.png", "http://x/c.png", "x" * 5000])
def test_a_name_that_no_file_has_costs_its_image(tmp_path, name):
    for own in ("a.png", "b.png"):
        photo(tmp_path / "in" / own)
    write(tmp_path / "in" / "a.json", content(shape("polygon", SQUARE), path=name))
    write(tmp_path / "in" / "b.json", content(shape("polygon", SQUARE), path="b.png"))
    found, lines = convert(tmp_path / "in", tmp_path)
    assert list(found) == ["b.png"]
    assert len(lines) == 1 and "images left out, whose file" in lines[0] and len(lines[0]) < 400


def test_a_far_corner_is_cut(tmp_path):
    photo(tmp_path / "in" / "a.png")
    far = [[10, 5], [2.1e8, 5], [2.1e8, 20], [10, 20]]
    write(
        tmp_path / "in" / "a.json",
        content(shape("polygon", far), shape("circle", [[9, 9], [9, 1e9]])),
    )
    found, lines = convert(tmp_path / "in", tmp_path)
    assert equal(found, {"a.png": {"nut": [box(10, 5, 60, 20), box(0, 0, 60, 40)]}})
    assert len(lines) == 1 and lines[0].startswith("2 objects whose outline reaches far beyond")


def test_odd_files_and_names_are_read(tmp_path):
    """A byte order mark, UTF-16, backslashes, other case, numbers as text, any script."""
    folder = tmp_path / "in"
    for name in ("sub", "another"):
        photo(folder / name / "Foto 1.PNG")
    photo(folder / "b.png")
    points = [["10", "5"], ["30", "5"], ["30", 20.0], [10, 20]]
    first = content(
        shape("polygon", points, "\u98df\u7269"), path="..\\sub\\foto 1.png", size=("40", 60.0)
    )
    second = content(shape(None, SQUARE, 7), path="C:\\Users\\me\\b.png", size=(None, None))
    write(folder / "sub" / "x.json", {})
    (folder / "sub" / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(first).encode())
    (folder / "y.json").write_text(json.dumps(second), encoding="utf-16")
    found, lines = convert(folder, tmp_path)
    expected = {"sub/Foto 1.PNG": {"\u98df\u7269": [box(10, 5, 30, 20)]}}
    assert equal(found, expected | {"b.png": {"7": [box(10, 5, 30, 20)]}}) and lines == []


def test_bad_files_cost_themselves(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.png", "b.png"):
        photo(folder / name)
    (folder / "c.png").write_text("no picture")
    write(folder / "a.json", content(shape("polygon", SQUARE)))
    (folder / "broken.json").write_text("{")
    (folder / "latin.json").write_bytes(b'{"shapes": "\xe9"}')
    write(folder / "other.json", {"a": 1})
    write(folder / "size.json", content(path="b.png", size=(60, 40)))
    write(folder / "picture.json", content(path="c.png"))
    write(folder / "missing.json", content(path="../../d.png"))
    write(folder / "nameless.json", content(path=None))
    found, lines = convert(folder, tmp_path)
    assert list(found) == ["a.png"] and len(found["a.png"]["nut"]) == 1
    text = "\n".join(lines)
    assert "2 files left out, which cannot be read: file broken.json (" in text
    assert "files left out, which are no annotations of LabelMe: file other.json" in text
    assert "for another size than that of the file: image b.png (size.json)" in text
    assert "images left out, whose file cannot be read: image c.png (picture.json)" in text
    assert (
        f"images left out, whose file is not in {folder}: image ../../d.png (missing.json)" in text
    )
    assert "images left out, which have no file name: image nameless.json" in text
    assert len(lines) == 6


def test_an_image_with_two_files_has_the_objects_of_both(tmp_path):
    photo(tmp_path / "in" / "a.png")
    for name in ("a.json", "b.json"):
        write(tmp_path / "in" / name, content(shape("polygon", SQUARE)))
    found, lines = convert(tmp_path / "in", tmp_path)
    assert len(found["a.png"]["nut"]) == 2
    assert lines == [
        "images that are annotated in several places; all of their objects count: "
        "image a.png (b.json)"
    ]


def test_names_that_differ_in_notation_are_told(tmp_path):
    photo(tmp_path / "in" / "a.png")
    shapes = [
        shape("polygon", SQUARE, label) for label in ("Nut", "nut ", "caf\u00e9", "cafe\u0301", "x")
    ]
    write(tmp_path / "in" / "a.json", content(*shapes))
    found, lines = convert(tmp_path / "in", tmp_path)
    assert len(found["a.png"]) == 5
    assert len(lines) == 1 and lines[0].startswith("4 categories with a name that differs from")


def test_one_file_is_one_image(tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / "in" / f"{name}.png")
        write(
            tmp_path / "in" / f"{name}.json", content(shape("polygon", SQUARE), path=f"{name}.png")
        )
    found, _ = convert(tmp_path / "in" / "b.json", tmp_path)
    assert list(found) == ["b.png"]
