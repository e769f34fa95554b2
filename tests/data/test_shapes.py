import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_masks
from pycocotools.coco import COCO

from maskrcnn_jax.data import coco, rle, shapes
from maskrcnn_jax.data.shapes import ShapesDataset


@pytest.fixture(scope="module")
def examples():
    return list(ShapesDataset(150, 128, seed=0))


def test_an_image_depends_on_the_seed_and_its_index_alone():
    long, short = ShapesDataset(50, 64, seed=1), ShapesDataset(4, 64, seed=1)
    other = ShapesDataset(50, 64, seed=2)
    long[7]  # Reading another image first must not change the result.
    for a, b in zip(long[3], short[3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert long[3].image.shape != other[3].image.shape or (long[3].image != other[3].image).any()
    assert len({example.image.tobytes() for example in [*long, *other]}) == 100


def test_indexing(examples):
    dataset = ShapesDataset(5, 64, seed=0)
    assert len(dataset) == len(list(dataset)) == 5
    np.testing.assert_array_equal(dataset[-1].image, dataset[4].image)
    np.testing.assert_array_equal(dataset[np.int64(4)].image, dataset[4].image)
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize("arguments", [(0, 128, 0), (10, 16, 0), (10, 128, -1)])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match="num_images=.*max_side=.*seed="):
        ShapesDataset(*arguments)


def test_sizes_are_those_of_the_images_and_vary(examples):
    dataset = ShapesDataset(150, 128, seed=0)
    assert [list(example.image.shape[:2]) for example in examples] == dataset.sizes.tolist()
    assert (
        [example.image_id for example in examples]
        == dataset.image_ids.tolist()
        == list(range(1, 151))
    )
    assert dataset.sizes.min() >= 0.7 * 128 and dataset.sizes.max() <= 128
    landscape = (dataset.sizes[:, 1] > dataset.sizes[:, 0]).mean()
    assert 0.3 < landscape < 0.7


def test_boxes_classes_and_masks_belong_together(examples):
    for example in examples:
        height, width, _ = example.image.shape
        assert len(example.boxes) == len(example.classes) == len(example.masks) <= 6
        assert example.image.dtype == np.uint8 and example.boxes.dtype == np.float32
        covered = np.zeros((height, width), int)
        for box, mask in zip(example.boxes, example.masks, strict=True):
            pixels = rle.decode(mask, height, width)
            rows, columns = np.nonzero(pixels)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            covered += pixels
        assert covered.max() <= 1  # No pixel belongs to two masks.


def test_the_set_is_varied(examples):
    numbers = Counter(len(example.boxes) for example in examples)
    assert set(numbers) == set(range(7)) and numbers[0] < 15
    classes = Counter(np.concatenate([example.classes for example in examples]).tolist())
    assert set(classes) == set(range(1, 6)) and min(classes.values()) > 0.5 * max(classes.values())
    sides = np.concatenate([example.boxes[:, 2:] - example.boxes[:, :2] for example in examples])
    assert sides.min() >= 12 and np.median(sides) > 22 and sides.max() > 45


def test_objects_differ_from_the_background(examples):
    differences = []
    for example in examples:
        height, width, _ = example.image.shape
        masks = [rle.decode(mask, height, width).astype(bool) for mask in example.masks]
        background = ~np.any([np.zeros((height, width), bool), *masks], axis=0)
        mean = example.image[background].mean(axis=0)
        differences += [np.linalg.norm(example.image[mask].mean(axis=0) - mean) for mask in masks]
    assert np.percentile(differences, 2) > 40


def test_classes_tell_outlines_apart():
    """The solidity and roundness of the drawn outlines determine the class."""
    step = (np.arange(-150, 150) + 0.5) / 100
    x, y = np.broadcast_to(step, (300, 300)), np.broadcast_to(step[:, None], (300, 300))
    areas = {name: (outline(x, y) < 0).sum() / 1e4 for name, outline in shapes._OUTLINES.items()}
    star = 5 * 1.15 * 0.5 * np.sin(np.pi / 5)  # The area of ten triangles, sides 1.15 and 0.5.
    expected = {
        "disc": np.pi * 0.9**2,
        "ring": np.pi * (0.95**2 - 0.45**2),
        "rectangle": 1.8 * 1.4,
        "triangle": 3 * np.sqrt(3) / 4 * 1.2**2,
        "star": star,
    }
    assert areas == pytest.approx(expected, rel=0.01)
    origin = np.zeros((1, 1))
    assert shapes._OUTLINES["ring"](origin, origin) > 0  # The hole is outside.


def test_edges_are_smooth():
    random = np.random.default_rng(0)
    window, cover, _ = shapes._draw(shapes._disc, (40, 40), np.array([20.0, 20.0]), 10.0, random)
    assert cover.sum() == pytest.approx(np.pi * 9**2, rel=0.01)
    assert 30 < ((cover > 0.01) & (cover < 0.99)).sum() < 100
    assert cover.shape == tuple(part.stop - part.start for part in window)


def test_annotations_are_a_coco_file(tmp_path, examples, capsys):
    dataset = ShapesDataset(20, 128, seed=0)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(dataset.annotations()))
    truth = COCO(path)
    assert sorted(truth.getImgIds()) == dataset.image_ids.tolist() and min(truth.getAnnIds()) == 1
    assert [category["name"] for category in truth.dataset["categories"]] == list(
        dataset.categories.names
    )
    for example in examples[:20]:
        found = truth.loadAnns(truth.getAnnIds(imgIds=example.image_id))
        assert [
            dataset.categories.label(entry["category_id"]) for entry in found
        ] == example.classes.tolist()
        for entry, box, mask in zip(found, example.boxes, example.masks, strict=True):
            assert entry["area"] == rle_masks.area(mask)
            np.testing.assert_allclose(rle_masks.toBbox(mask), entry["bbox"])
            np.testing.assert_allclose(box[2:], np.add(entry["bbox"][:2], entry["bbox"][2:]))


def test_a_written_set_reads_back_the_same(tmp_path):
    dataset = ShapesDataset(6, 64, seed=3)
    content = dataset.annotations()
    for entry, example in zip(content["images"], dataset, strict=True):
        entry["file_name"] = f"{entry['id']}.png"
        Image.fromarray(example.image).save(tmp_path / entry["file_name"])
    (tmp_path / "instances.json").write_text(json.dumps(content))
    read = coco.CocoDataset(tmp_path, tmp_path / "instances.json", keep_empty=True)
    assert read.categories == dataset.categories
    for ours, theirs in zip(dataset, read, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
