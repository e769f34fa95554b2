"""Writes the report of an evaluation as one HTML page with everything in it."""

import html
import importlib.resources
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskrcnn_jax.report import measures, pictures

SCORE_THRESHOLD = 0.5  # Of the detections in pictures, and of the counts until the reader chooses another.
MAX_PICTURED = 50  # Images with pictures: two of about 40 kB each.
MAX_LISTED = 2000  # Images in the list, so that large sets do not make the page slow.

_SCRIPTS = ("elements.js", "charts.js", "tables.js", "images.js", "page.js")  # In the order they need one another.


def write(
    path: str | Path,
    dataset: Any,
    annotations: dict,
    results: Sequence[dict],
    *,
    title: str,
    max_detections: int,
    advance: Callable[[int], object] = lambda num_images: None,
) -> None:
    """Writes a page with tables, curves and pictures.

    The images with the most mistakes are listed; those with the most missed and the most false instances have pictures.
    As both are limited, the page has about 5 MB, and never many more than 15, however large the data set is.

    Args:
      path: of the page; folders on the way are created.
      dataset: the images, with `image_ids`; indexing reads one as an `Example`.
      annotations: the ground truth of the whole set in COCO's format.
      results: detections in COCO's results format, with "bbox" and "segmentation", possibly none.
      title: of the page, in plain text.
      max_detections: of each image and class, best first, that count.
      advance: called with 1 after each image that was drawn.
    """
    data = measures.measure(annotations, results, max_detections)
    listed, pictured = choose(data["images"])
    names = [entry["name"] for entry in data["classes"]]
    position = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
    for image in pictured:
        pixels = dataset[position[image["id"]]].image
        _draw(image["objects"], annotations["annotations"], pixels, names)
        _draw(image["detections"], results, pixels, names)
        advance(1)
    for image in listed:
        for columns in (image["objects"], image["detections"]):
            del columns["index"]  # What it points to is not on the page.
    data |= {"title": title, "numImages": len(data["images"]), "threshold": SCORE_THRESHOLD, "images": listed}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fill(data), encoding="utf-8")


def _draw(
    columns: dict[str, Any], entries: Sequence[dict], image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]
) -> None:
    """Adds a picture to the objects or detections of an image, and their boxes, for frames around some of them."""
    own = [entries[index] for index in columns["index"]]
    scores = columns.get("score", [1000] * len(own))
    lowest = measures.thousandths(SCORE_THRESHOLD)
    boxes = np.array([entry["bbox"] for entry in own], np.float64).reshape(-1, 4)
    finite = np.isfinite(boxes).all(1)  # There is no frame around the others.
    columns["boxes"] = np.where(finite[:, None], boxes, 0).round(1).tolist()
    shown = [i for i, score in enumerate(scores) if score >= lowest]
    labels = [columns["class"][i] + 1 for i in shown]
    columns["picture"] = pictures.data_uri(image, [own[i] for i in shown], labels, names)


def choose(images: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The images of `measures.measure` to list, most mistakes first, and those of them to draw.

    Of those to draw, the ones with the most missed and the ones with the most false instances take turns.
    """
    mistakes = {image["id"]: measures.mistakes(image, SCORE_THRESHOLD) for image in images}
    listed = sorted(images, key=lambda image: -sum(mistakes[image["id"]]))[:MAX_LISTED]
    by_missed = sorted(listed, key=lambda image: -mistakes[image["id"]][0])
    by_false = sorted(listed, key=lambda image: -mistakes[image["id"]][1])
    turns = [image for pair in zip(by_missed, by_false, strict=True) for image in pair]
    pictured = list({image["id"]: image for image in turns}.values())[:MAX_PICTURED]
    return listed, pictured


def fill(data: dict[str, Any], template_name: str = "page.html", script_names: Sequence[str] = _SCRIPTS) -> str:
    """A page, with data in place of its placeholders.

    Nothing of the data is read as HTML: it travels as JSON without "<", and scripts show it as text.
    """
    folder = importlib.resources.files("maskrcnn_jax.report")
    template, style, *scripts = (
        (folder / name).read_text(encoding="utf-8") for name in (template_name, "page.css", *script_names)
    )
    parts = {
        "title": html.escape(data["title"]),
        "style": style,
        "script": "\n".join(scripts),
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
