"""Writes predictions as GeoJSON, label images and CSV, for `maskrcnn-jax predict --formats`."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt16
from PIL import Image
from pycocotools import mask as rle_codec

from maskrcnn_jax import whole_files
from maskrcnn_jax.cli.arguments import detection
from maskrcnn_jax.data import tracing
from maskrcnn_jax.pasting import ImageDetections

NAMES = detection.FORMATS
DEFAULT = ("picture", "coco")
# The suffixes of the formats that have a file for each image.
SUFFIXES = {"picture": ".png", "geojson": ".geojson", "labels": ".labels.png"}
MEASUREMENTS = "measurements.csv"
NO_MASKS = "--formats labels needs masks, and this model has no mask head"
COLUMNS = (
    *("file_name", "image_id", "number", "category_id", "category_name", "score"),
    *("x0", "y0", "x1", "y1", "area"),
)


def write(
    found: ImageDetections,
    results: Sequence[dict],
    size: tuple[int, int],
    path: Path,
    formats: Sequence[str],
) -> None:
    """Writes the files of one image: GeoJSON and a picture of labels.

    Args:
        found: The detections, in pixels of the image.
        results: The same as COCO results, with "file_name" and "category_name".
        size: Height and width of the image.
        path: The path of the files, without their suffixes.
        formats: Some of `NAMES`.

    Raises:
        ValueError: There are no masks for labels.
        OSError: A file cannot be written.
    """
    if "geojson" in formats:
        content = json.dumps(features(found, results, size))
        whole_files.write_text(named(path, "geojson"), content)
    if "labels" in formats:
        with whole_files.replacing(named(path, "labels")) as temporary:
            Image.fromarray(labels(found, size)).save(temporary)


def named(path: Path, kind: str) -> Path:
    """The file of an image in a format; the name of ``path`` may have dots."""
    return path.with_name(path.name + SUFFIXES[kind])


def features(
    found: ImageDetections, results: Sequence[dict], size: tuple[int, int]
) -> dict[str, Any]:
    """The detections as a GeoJSON FeatureCollection, with coordinates (x, y) in pixels.

    Polygons run along the edges of pixels, and cover exactly those of the mask; without masks they
    are the boxes. Arguments as in `write`.
    """
    made = []
    for i, result in enumerate(results):
        x0, y0, x1, y1 = (round(x, 3) for x in found.boxes[i].tolist())
        parts: list = [[[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]]
        if found.patches is not None:
            parts = tracing.polygons(*_inside(found, i))
        properties = {k: result[k] for k in ("category_id", "category_name", "score")}
        made.append(
            {
                "type": "Feature",
                "id": i + 1,
                "bbox": [x0, y0, x1, y1],
                "geometry": {"type": "MultiPolygon", "coordinates": parts},
                "properties": properties | {"area": _area(found, i)},
            }
        )
    about = {"height": size[0], "width": size[1], "units": "pixels"}
    return {"type": "FeatureCollection", "features": made, "image": about}


def labels(found: ImageDetections, size: tuple[int, int]) -> UInt16[np.ndarray, "h w"]:
    """The number of the detection at each pixel, from 1 by descending score; 0 for none.

    Where masks overlap, the smaller one is seen.

    Raises:
        ValueError: The detections have no masks.
    """
    if found.patches is None:
        raise ValueError(NO_MASKS)
    areas = [_area(found, i) for i in range(len(found.boxes))]
    image = np.zeros(size, np.uint16)
    for i in np.argsort([-area for area in areas], kind="stable").tolist():
        inside, (y, x) = _inside(found, i)
        np.putmask(image[y : y + inside.shape[0], x : x + inside.shape[1]], inside, i + 1)
    return image


def write_measurements(path: Path, results: Sequence[dict]) -> None:
    """Writes a table of all detections as CSV: boxes in pixels, scores, areas of masks in pixels.

    Args:
        path: The file.
        results: COCO results of all images, with "file_name" and "category_name". Without
            "segmentation" the areas are those of the boxes.
    """
    count: Counter[int | str] = Counter()
    with whole_files.replacing(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            for result in results:
                count[result["image_id"]] += 1
                x, y, width, height = result["bbox"]
                corners = {"x0": x, "y0": y, "x1": round(x + width, 3), "y1": round(y + height, 3)}
                area = round(width * height, 3)
                if "segmentation" in result:
                    area = int(rle_codec.area(result["segmentation"]))
                number = {"number": count[result["image_id"]], "area": area}
                writer.writerow(result | corners | number)


def _inside(found: ImageDetections, i: int) -> tuple[Bool[np.ndarray, "y x"], tuple[int, int]]:
    """The pixels of a mask, and the (y, x) of the first one."""
    patch, offset = (found.patches or [])[i]
    return patch > 0.5, offset


def _area(found: ImageDetections, i: int) -> float | int:
    """The pixels of a mask; without masks the area of the box."""
    if found.patches is not None:
        return int(_inside(found, i)[0].sum())
    x0, y0, x1, y1 = found.boxes[i].tolist()
    return round((x1 - x0) * (y1 - y0), 3)
