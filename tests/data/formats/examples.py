"""Small files of each format, and the masks of a conversion."""

import json

import numpy as np
from PIL import Image

from maskrcnn_jax.data import annotations, rle
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.formats import conversion

HEIGHT, WIDTH = 40, 60


def photo(path, height=HEIGHT, width=WIDTH):
    """Writes a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def write(path, content):
    """Writes json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def png(path, array):
    """Writes an array as a picture of its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def box(x0, y0, x1, y1, height=HEIGHT, width=WIDTH):
    """The mask of a rectangle between whole pixels."""
    mask = np.zeros((height, width), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def disc(x, y, radius_x, radius_y, angle=0.0):
    """The pixels whose centre lies in an ellipse."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    across, down = columns - x, rows - y
    along = across * np.cos(angle) + down * np.sin(angle)
    beside = down * np.cos(angle) - across * np.sin(angle)
    return ((along / radius_x) ** 2 + (beside / radius_y) ** 2 <= 1).astype(np.uint8)


def agree(mask, expected):
    """Whether two masks differ by a few pixels of the border only."""
    return 0 < expected.sum() and (mask & expected).sum() > 0.9 * (mask | expected).sum()


def convert(source, tmp_path, **choices):
    """Converts, and opens the json file as all commands do, which must find nothing to mend.

    Returns:
        The masks by image and category, in order, and the lines of findings.
    """
    found = conversion.convert(source, **choices)
    write(tmp_path / "coco.json", found.content)
    assert not annotations.read(tmp_path / "coco.json").findings
    dataset = CocoDataset(found.images, tmp_path / "coco.json", keep_empty=True, masks=False)
    assert len(dataset) == len(found.content["images"])
    sizes = [dataset[i].image.shape[:2] for i in range(len(dataset))]
    assert sizes == [(entry["height"], entry["width"]) for entry in found.content["images"]]
    names = {entry["id"]: entry["name"] for entry in found.content["categories"]}
    images = {entry["id"]: entry for entry in found.content["images"]}
    masks = {entry["file_name"]: {} for entry in images.values()}
    for entry in found.content["annotations"]:
        image, mask = images[entry["image_id"]], entry.get("segmentation")
        bitmap = None if mask is None else rle.decode(mask, image["height"], image["width"])
        assert bitmap is None or bitmap.sum() == entry["area"]
        masks[image["file_name"]].setdefault(names[entry["category_id"]], []).append(bitmap)
    return masks, found.findings.lines()


def equal(found, expected):
    """Whether masks by image and category are those expected."""
    shapes = [
        {name: {k: len(v) for k, v in x.items()} for name, x in y.items()}
        for y in (found, expected)
    ]
    return shapes[0] == shapes[1] and all(
        np.array_equal(mask, other)
        for name, masks in expected.items()
        for category, others in masks.items()
        for mask, other in zip(found[name][category], others, strict=True)
    )
