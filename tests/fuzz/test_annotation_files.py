"""Any annotation file is opened with what can be used of it, or refused with one message."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn_jax import coco_metrics
from maskrcnn_jax.cli import data  # noqa: F401  (imported before memory is limited)
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import (
    ground_truth,
    rle,
    splitting,
    statistics,
    summary,
    transforms,
)
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.pack import pack
from tests.fuzz import guard, mutations

MAX_LINE = 1000  # Characters of a warning.
SIZE = (60, 80)
FLIP = DataConfig(
    short_sides=(48, 64),
    max_long_side=96,
    horizontal_flip=0.5,
    vertical_flip=0.5,
    crop_size=50,
    max_instances=8,
    mask_size=28,
    keep_empty=True,
)
randoms = st.randoms(use_true_random=False)


def annotation(number, image_id, category_id, **fields):
    x, y, w, h = 10 + number, 8, 30, 24
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    entry = {"id": number, "image_id": image_id, "category_id": category_id}
    entry |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": outline}
    return entry | fields


def good():
    """A valid file: outlines, both run lengths, a crowd, and a box alone, in three images."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 80} for i in (1, 2, 3)]
    runs = {"size": list(SIZE), "counts": [600, 30, 30, 30, 4110]}
    text = rle.encode_bitmap(np.pad(np.ones((20, 25)), ((9, 31), (12, 43))))
    holes = [[20, 10, 40, 10, 40, 30, 20, 30], [50.5, 20.25, 70, 40, 50, 40]]
    found = [
        annotation(1, 1, 1),
        annotation(2, 1, 2, segmentation=holes, bbox=[20, 10, 50, 30]),
        annotation(3, 2, 1, segmentation=runs, bbox=[10, 0, 2, 30], area=60),
        annotation(4, 2, 2, segmentation=text, bbox=[12, 9, 25, 20], area=500),
        annotation(5, 2, 1, iscrowd=1, segmentation=runs),
        annotation(6, 3, 1),
    ]
    categories = [{"id": 1, "name": "nut"}, {"id": 2, "name": "date", "supercategory": "fruit"}]
    return {
        "info": {"year": 2020},
        "images": images,
        "annotations": found,
        "categories": categories,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for i in (1, 2, 3):
        pixels = np.random.default_rng(i).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


def write(rng, path):
    """Writes a changed file, and returns its size."""
    content = good()
    if rng.random() < 0.8:  # Elsewhere most changes are refused at once.
        key = rng.choice(("images", "annotations", "annotations", "annotations", "categories"))
        content[key] = mutations.value(rng, content[key])
    else:
        content = mutations.value(rng, content)
    text = json.dumps(content).encode()
    if rng.random() < 0.1:
        text = mutations.content(rng, text)
    path.write_bytes(text)
    return len(text)


def look_at(dataset, rng, with_masks):
    """Takes a data set through everything before the network; returns its annotations."""
    for index in range(len(dataset)):
        try:
            example = dataset[index]
        except (OSError, ValueError):
            continue
        height, width = example.image.shape[:2]
        assert np.isfinite(example.boxes).all()
        assert (example.boxes >= 0).all() and (example.boxes[:, 2:] <= [width, height]).all()
        seed = (rng.randrange(100), 0)
        sample = transforms.train_sample(example, seed, FLIP, transforms.standard(FLIP))
        for store in ("crop", "full"):
            config = DataConfig(max_instances=8, mask_size=28, mask_store=store)
            row = pack(sample, (96, 96), config, masks=with_masks)
            assert np.isfinite(row.instances.boxes).all()
            assert (row.instances.classes <= len(dataset.categories)).all()
            assert with_masks == (row.instances.masks is not None)
    return dataset.annotations()


@given(rng=randoms)
def test_data_sets(folder, tmp_path, rng, caplog):
    path = tmp_path / "changed.json"
    size = write(rng, path)
    caplog.clear()
    with guard.limits("test_data_sets", size):
        try:
            options = {"keep_empty": rng.random() < 0.5, "crowd": rng.choice(("ignore", "objects"))}
            with_masks = rng.random() < 0.8
            dataset = CocoDataset(folder, path, masks=with_masks, **options)
        except (ValueError, OSError) as error:
            assert str(path) in str(error) or str(folder) in str(error), error
            assert len(str(error)) < MAX_LINE
            return
        assert all(len(record.getMessage()) < MAX_LINE for record in caplog.records)
        found = look_at(dataset, rng, with_masks)
        assert len(dataset) or dataset.why_empty
        summary.summarize(found, 100)
        objects = statistics.objects(found)
        statistics.suspicious(objects, statistics.resized_sides(objects, FLIP))
        _split(found)


def _split(found):
    try:
        parts = splitting.split(found, 0.5)
    except ValueError:  # Too few images are left.
        return
    assert json.loads(json.dumps(parts))


@given(rng=randoms)
def test_evaluations(folder, tmp_path, rng):
    path = tmp_path / "changed.json"
    size = write(rng, path)
    with guard.limits("test_evaluations", size, base=256 << 20):
        try:
            dataset = CocoDataset(folder, path, keep_empty=True, masks=False)
        except (ValueError, OSError):
            return
        found = ground_truth.complete(dataset.annotations(), masks=rng.random() < 0.7)
        results = _detections(rng, found)
        for kind in ("bbox", "segm"):
            if kind == "segm" and any(not x.get("segmentation") for x in found["annotations"]):
                continue
            numbers = coco_metrics.coco_summary(found, results, kind, 100)
            assert all(math.isfinite(x) and -1 <= x <= 1 for x in numbers.values())
            assert json.dumps(numbers, allow_nan=False)
            coco_metrics.per_class_ap(found, results, kind)


def _detections(rng, found):
    results = []
    for entry in found["annotations"]:
        size = next(x for x in found["images"] if x["id"] == entry["image_id"])
        runs = {"size": [size["height"], size["width"]], "counts": "0"}
        detected = {"image_id": entry["image_id"], "category_id": entry["category_id"]}
        detected |= {"bbox": [1.0, 2.0, 30.0, 20.0], "score": round(rng.random(), 3)}
        results.append(detected | {"segmentation": runs})
    return results


@settings(max_examples=max(settings().max_examples // 5, 6))
@given(rng=randoms, action=st.sampled_from(("split", "browse", "check")))
def test_commands(folder, tmp_path_factory, rng, action):
    place = tmp_path_factory.mktemp("out")
    size = write(rng, place / "changed.json")
    command = ["data", action, "--images", str(folder)]
    command += ["--annotations", str(place / "changed.json")]
    if action != "check":
        command += ["--output", str(place / "new")]
    if action == "browse":
        command += ["--side", "100", *rng.choice(([], ["--augmented"], ["--separate"]))]
    with guard.limits("test_commands", size, base=1 << 30):  # 16 threads look at images.
        assert main(command) in (0, 1, 2)


def test_the_unchanged_file_is_used_whole(folder, tmp_path, caplog):
    (tmp_path / "good.json").write_text(json.dumps(good()))
    dataset = CocoDataset(folder, tmp_path / "good.json", keep_empty=True)
    assert [len(labels) for labels in dataset.labels] == [2, 2, 1]
    (record,) = caplog.records
    assert "1 of 6 annotations are crowds" in record.getMessage()
