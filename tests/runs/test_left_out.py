"""Images and annotations that are bad when a run begins are left out, and stay out."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import distributed
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import checks, coco_instances, sources
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.runs import left_out

OUTLINE = [5, 5, 25, 5, 25, 25, 5, 25]


@pytest.fixture
def data(tmp_path):
    """Five images of noise with their annotations; the config takes them for both sets."""
    entries, objects = [], []
    for i in range(1, 6):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
        entries.append({"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60})
        found = {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20]}
        objects.append(found | {"segmentation": [OUTLINE]})
    content = {"images": entries, "annotations": objects}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "disc"}]}))
    files = {f"{split}_images": str(tmp_path) for split in ("train", "val")}
    files |= {f"{split}_annotations": str(path) for split in ("train", "val")}
    return DataConfig(**files)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


SPOILED = {
    "cut off": (cut, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "zeros": (lambda path: path.write_bytes(b"\0" * 900), "it has only zeros"),
    "missing": (lambda path: path.unlink(), "there is no file 2.jpg"),
    "a folder": (lambda path: [path.unlink(), path.mkdir()], "2.jpg"),
    "of another size": (lambda path: Image.new("RGB", (9, 8)).save(path), "is 8x9 pixels, but"),
    "turned": (lambda path: Image.new("RGB", (40, 60)).save(path), "turned by a quarter"),
    "a pointer": (lambda path: path.write_text("version https://git-lfs.github"), "Git LFS"),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html>"), "a web page"),
    "a cut PNG": (
        lambda path: [Image.new("RGB", (60, 40)).save(path, "PNG"), cut(path)],
        "2.jpg",
    ),
}


def quiet(description, total):
    return contextlib.nullcontext(lambda count: None)


def find(workdir, config, progress=quiet):
    dataset = CocoDataset(config.train_images, config.train_annotations, keep_empty=False)
    return left_out.find(workdir, config, dataset, dataset, progress)


@pytest.mark.parametrize("kind", SPOILED)
def test_one_bad_file_costs_itself(data, tmp_path, kind):
    spoil, reason = SPOILED[kind]
    spoil(tmp_path / "2.jpg")
    bad = find(tmp_path / "run", data)
    assert bad["train"] == bad["val"] and list(bad["train"]) == [2]
    assert reason in bad["train"][2]
    dataset = CocoDataset(tmp_path, data.train_annotations, keep_empty=False)
    rest = checks.without(dataset, bad["train"])
    assert rest.image_ids.tolist() == [1, 3, 4, 5] and len(dataset) == 5
    assert [x["id"] for x in rest.annotations()["images"]] == [1, 3, 4, 5]
    assert [x["image_id"] for x in rest.annotations()["annotations"]] == [1, 3, 4, 5]
    assert len(rest.labels) == len(rest.sizes) == len(rest.file_names) == 4


def test_the_list_holds_when_the_file_is_good_again(data, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    good = (tmp_path / "2.jpg").read_bytes()
    cut(tmp_path / "2.jpg")
    bad = find(workdir, data)
    left_out.write(workdir, data, bad)
    (tmp_path / "2.jpg").write_bytes(good)
    cut(tmp_path / "3.jpg")
    assert find(workdir, data) == bad
    data.val_images += "/."  # Other files are looked at anew.
    assert list(find(workdir, data)["val"]) == [3]


def test_all_processes_take_the_list_of_the_first(data, tmp_path, monkeypatch):
    told = [{"sets": {"train": {"4": "gone"}, "val": {}}}]
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    monkeypatch.setattr(distributed, "gather", lambda records: records + told)
    cut(tmp_path / "2.jpg")
    assert find(tmp_path / "run", data) == {"train": {4: "gone"}, "val": {}}
    told[0] = {"error": "most of them are bad"}
    with pytest.raises(ValueError, match="most of them are bad"):
        find(tmp_path / "run", data)


def test_most_files_bad_is_a_mistake_of_the_call(data, tmp_path):
    for i in (1, 2, 3):
        cut(tmp_path / f"{i}.jpg")
    with pytest.raises(ValueError, match="3 of 5 images of data.train_annotations cannot be used"):
        find(tmp_path / "run", data)


def test_prepared_records_of_other_channels_are_refused(data, tmp_path):
    source = CocoDataset(data.train_images, data.train_annotations, keep_empty=True)
    coco_instances.prepare(source, "train", tmp_path / "out", lambda count: None)
    config = DataConfig(source="tfds", tfds_dir=str(tmp_path / "out"))
    dataset = sources.open_train(config, num_channels=4)
    with pytest.raises(
        ValueError, match="5 of 5 images of data.tfds_dir .* 3 channels; expected 4"
    ):
        left_out.find(tmp_path / "run", config, dataset, dataset, quiet)


def test_strictness_takes_no_bad_file(data, tmp_path):
    cut(tmp_path / "2.jpg")
    data.strict = True
    with pytest.raises(ValueError, match="1 of 5 images of data.train_annotations cannot be used"):
        find(tmp_path / "run", data)


def test_images_without_files_need_no_look(data, tmp_path):
    def shown(description, total):
        raise AssertionError("there is nothing to look at")

    dataset = ShapesDataset(2, 64, 0)
    bad = left_out.find(tmp_path, data, dataset, dataset, shown)
    assert bad == {"train": {}, "val": {}}


BROKEN = ("{}", '{"train": {}}', '{"train": {}, "val": 3}', '{"train": {"a": "x"}, "val": {}}')


@pytest.mark.parametrize("text", ["{", "[]", '{"sets": 1}', *BROKEN[1:], "[" * 9000])
def test_a_broken_list_is_named(data, tmp_path, text):
    if text in BROKEN:
        files = json.dumps(left_out._files(data))
        text = f'{{"files": {files}, "sets": {text}}}'
    (tmp_path / "left_out.json").write_text(text)
    with pytest.raises(ValueError, match="left_out.json is not a list of left-out images"):
        find(tmp_path, data)


def test_annotations_that_change_between_two_starts_are_named(data, tmp_path, caplog):
    workdir = tmp_path / "run"
    workdir.mkdir()
    for _ in range(2):
        left_out.write(workdir, data, {"train": {}, "val": {}})
    assert caplog.messages == []
    path = Path(data.train_annotations)
    path.write_text(path.read_text().replace("disc", "ring"))
    for _ in range(2):  # The run began with the first content.
        left_out.write(workdir, data, {"train": {}, "val": {}})
    assert caplog.messages == [f"{path} has changed since the run in {workdir} began"] * 2


def test_an_image_that_changes_during_a_run_is_named(data, tmp_path, caplog):
    dataset = CocoDataset(tmp_path, data.train_annotations, keep_empty=True)
    for index in range(5):
        dataset.check(index)
        dataset[index]
    assert caplog.messages == []
    path = tmp_path / "3.jpg"
    Image.new("RGB", (60, 40)).save(path)
    dataset[2], dataset.without([1])[1]
    assert caplog.messages == [f"image id 3: {path} has changed since the start"]
