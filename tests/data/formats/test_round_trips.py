"""The same random objects in each format."""

import json

import numpy as np
import pytest

from maskrcnn_jax.data import rle
from tests.data.formats.examples import HEIGHT, WIDTH, convert, equal, photo, png, write

NAMES = ("fig", "nut")


def polygons(seed):
    """Stars of three to nine corners: [category, x0 y0 x1 y1 ...]."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(6):
        count = random.integers(3, 10)
        turn = np.sort(random.uniform(0, 2 * np.pi, count))
        reach = random.uniform(5, 18, count)
        centre = random.uniform((18, 18), (WIDTH - 18, HEIGHT - 18))
        points = centre + np.stack([np.cos(turn), np.sin(turn)], axis=1) * reach[:, None]
        found.append((NAMES[random.integers(2)], points.ravel().tolist()))
    return found


def as_labelme(folder, found):
    shapes = [
        {"label": name, "points": np.reshape(x, (-1, 2)).tolist(), "shape_type": "polygon"}
        for name, x in found
    ]
    write(folder / "a.json", {"imagePath": "a.png", "shapes": shapes})
    return folder, "a.png"


def as_via(folder, found):
    regions = [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": x[::2],
                "all_points_y": x[1::2],
            },
            "region_attributes": {"kind": name},
        }
        for name, x in found
    ]
    write(folder / "via.json", {"a": {"filename": "a.png", "regions": regions}})
    return folder / "via.json", "a.png"


def as_yolo(folder, found):
    sides = (WIDTH, HEIGHT)
    lines = [
        " ".join([str(NAMES.index(name)), *(f"{v / sides[i % 2]:.15g}" for i, v in enumerate(x))])
        for name, x in found
    ]
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "a.png").rename(folder / "images" / "a.png")
    (folder / "labels" / "a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(json.dumps({"names": NAMES, "train": "images"}))
    return folder, "images/a.png"


@pytest.mark.parametrize("form", [as_labelme, as_via, as_yolo])
@pytest.mark.parametrize("seed", range(4))
def test_polygons(tmp_path, form, seed):
    photo(tmp_path / "in" / "a.png")
    source, name = form(tmp_path / "in", polygons(seed))
    expected = {}
    for category, values in polygons(seed):
        mask = rle.decode([values], HEIGHT, WIDTH)
        expected.setdefault(category, []).append(mask)
    found, lines = convert(source, tmp_path)
    assert equal(found, {name: expected}) and lines == []


def ids(seed):
    """Objects 1 to 8 of random pixels, in many pieces, over a background of 0."""
    return np.random.default_rng(seed).integers(0, 9, (HEIGHT, WIDTH)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_masks_of_ids(tmp_path, seed):
    photo(tmp_path / "photos" / "a.png")
    png(tmp_path / "in" / "a.png", ids(seed))
    found, lines = convert(tmp_path / "in", tmp_path, images=tmp_path / "photos")
    masks = [(ids(seed) == value).astype(np.uint8) for value in range(1, 9)]
    assert equal(found, {"a.png": {"object": masks}}) and lines == []


@pytest.mark.parametrize("seed", range(3))
def test_masks_of_voc(tmp_path, seed):
    top = tmp_path / "in"
    photo(top / "JPEGImages" / "a.png")
    png(top / "SegmentationObject" / "a.png", ids(seed))
    classes = np.array([0, 1, 2] * 3, np.uint8)[ids(seed)]  # Of the ids 0, 1, 2, ...
    classes[ids(seed) % 3 == 0] = 20
    png(top / "SegmentationClass" / "a.png", classes)
    names = {0: "tvmonitor", 1: "aeroplane", 2: "bicycle"}
    expected = {}
    for value in range(1, 9):
        mask = (ids(seed) == value).astype(np.uint8)
        expected.setdefault(names[value % 3], []).append(mask)
    found, lines = convert(top, tmp_path)
    assert equal(found, {"a.png": expected}) and lines == []
