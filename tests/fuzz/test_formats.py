"""Annotations of any other format are converted to what all commands take, or refused."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskrcnn_jax.data import annotations, rle
from maskrcnn_jax.data.formats import conversion
from tests.fuzz import guard, mutations

MAX_LINE = 1000  # Characters of a warning.
HEIGHT, WIDTH = 60, 80
SQUARE = [[10, 10], [40, 10], [40, 30], [10, 30]]
randoms = st.randoms(use_true_random=False)


def encoded(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


IDS = np.kron(np.arange(12).reshape(3, 4), np.ones((20, 20))).astype(np.uint8)
LABELME = {
    "imagePath": "a.png",
    "imageHeight": HEIGHT,
    "imageWidth": WIDTH,
    "shapes": [
        {"label": "nut", "points": SQUARE, "shape_type": "polygon", "group_id": 1},
        {"label": "nut", "points": SQUARE[:2], "shape_type": "circle", "group_id": 1},
        {"label": "fig", "points": SQUARE[::2], "shape_type": "rectangle"},
        {"label": "fig", "points": [[1, 1], [2, 2]], "shape_type": "mask"}
        | {"mask": base64.b64encode(encoded(np.ones((2, 2), np.uint8))).decode()},
    ],
}
SHAPES = [
    {"name": "polygon", "all_points_x": [10, 40, 40], "all_points_y": [10, 10, 30]},
    {"name": "rect", "x": 5, "y": 6, "width": 20, "height": 30},
    {"name": "ellipse", "cx": 30, "cy": 30, "rx": 20, "ry": 10, "theta": 0.3},
    {"name": "circle", "cx": 30, "cy": 30, "r": 20},
]
REGIONS = [{"shape_attributes": x, "region_attributes": {"kind": "nut"}} for x in SHAPES]
VIA = {"a.png9": {"filename": "a.png", "size": 9, "regions": REGIONS}}
VIA |= {"b": {"filename": "a.png", "regions": dict(zip("01", REGIONS, strict=False))}}
LABELS = ("car", "road", "cargroup", "person")
CITY = {"imgHeight": HEIGHT, "imgWidth": WIDTH}
CITY |= {"objects": [{"label": x, "polygon": SQUARE} for x in LABELS]}
YOLO = b"0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5\n1 0.5 0.5 0.2 0.2\n"
YAML = {"names": ["nut", "fig"], "train": "images", "path": "."}

# By format: the file that is changed, its content, and the other files.
FILES = {
    "labelme": ("a.json", LABELME, {}),
    "via": ("via.json", VIA, {}),
    "cityscapes": ("gtFine/x_gtFine_polygons.json", CITY, {}),
    "yolo": ("labels/a.txt", YOLO, {"data.yaml": json.dumps(YAML).encode()}),
    "yolo, yaml": ("data.yaml", YAML, {"labels/a.txt": YOLO}),
    "voc": ("SegmentationObject/a.png", encoded(IDS), {"SegmentationClass/a.png": encoded(IDS)}),
    "voc, classes": (
        "SegmentationClass/a.png",
        encoded(IDS),
        {"SegmentationObject/a.png": encoded(IDS)},
    ),
    "masks": ("a.png", encoded(IDS), {}),
}


@pytest.mark.parametrize("kind", FILES)
@given(rng=randoms)
def test_formats(tmp_path_factory, kind, rng):
    folder = tmp_path_factory.mktemp("format")
    path, content, others = FILES[kind]
    if not isinstance(content, bytes):
        content = json.dumps(mutations.value(rng, content)).encode()
    if path.endswith(("png", "txt")) or rng.random() < 0.1:
        content = mutations.content(rng, content)
    photo = encoded(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    images = {"images/a.png": photo, "images/x_leftImg8bit.png": photo}
    for name, written in (others | {path: content} | images).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written)
    name = kind.partition(",")[0]
    place = folder if name == "yolo" else folder / "images"
    source = folder / path if name == "via" else folder
    with guard.limits("test_formats", len(content)):
        try:
            found = conversion.convert(source, name, place)
        except (ValueError, OSError) as error:
            assert str(folder) in str(error), error
            assert len(str(error)) < 2 * MAX_LINE
            return
        assert all(len(line) < MAX_LINE for line in found.findings.lines())
    check(found.content, folder / "coco.json")


def check(content, path):
    """All commands take the content as it is, and its masks have pixels."""
    path.write_text(json.dumps(content, allow_nan=False))
    read = annotations.read(path)
    assert not read.findings, read.findings.lines()
    for entry in content["annotations"]:
        if "segmentation" in entry:
            assert rle.decode(entry["segmentation"], HEIGHT, WIDTH).sum() == entry["area"] > 0
