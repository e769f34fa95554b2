"""Writes the report of an evaluation as one self-contained HTML page."""

import html
import importlib.resources
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskrcnn_jax import whole_files
from maskrcnn_jax.data.dataset import Dataset
from maskrcnn_jax.report import drawings, measures

# For the detections in drawings, and for the counts until the reader chooses another threshold.
SCORE_THRESHOLD = 0.5
MAX_DRAWN = 50  # Images with drawings. Each has two of about 40 kB.
MAX_LISTED = 2000  # Images in the list; longer lists make the page slow.

# A script may use the scripts before it.
_SCRIPTS = ("elements.js", "charts.js", "tables.js", "images.js", "page.js")


def write(
    path: str | Path,
    dataset: Dataset,
    annotations: dict,
    results: Sequence[dict],
    *,
    title: str,
    max_detections: int,
    masks: bool = True,
    advance: Callable[[int], object] = lambda num_images: None,
) -> None:
    """Writes a page with tables, curves and drawings.

    The page lists the images with the most mistakes, and has drawings of those with the most missed
    and the most false instances. Both numbers are limited, so the page has about 5 MB, and at most
    about 15 MB, for data sets of any size.

    Args:
        path: The file to write; missing folders are created.
        dataset: The images.
        annotations: The ground truth of the whole set in COCO's format.
        results: Detections in COCO's results format; may be empty.
        title: The title of the page in plain text.
        max_detections: The number of best detections that count in each image and class.
        masks: Whether the results have masks. Otherwise the page is about boxes only.
        advance: Called with 1 after each drawn image.
    """
    data = measures.measure(annotations, results, max_detections, masks=masks)
    listed, drawn = choose(data["images"])
    names = [entry["name"] for entry in data["classes"]]
    position = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
    for image in drawn:
        pixels = dataset[position[image["id"]]].image
        _draw(image["objects"], annotations["annotations"], pixels, names)
        _draw(image["detections"], results, pixels, names)
        advance(1)
    for image in listed:
        for columns in (image["objects"], image["detections"]):
            del columns["index"]  # The page does not need the indices.
    data |= {"title": title, "threshold": SCORE_THRESHOLD}
    data |= {"numImages": len(data["images"]), "images": listed}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_files.write_text(path, fill(data))


def _draw(
    columns: dict[str, Any],
    entries: Sequence[dict],
    image: UInt8[np.ndarray, "h w 3"],
    names: Sequence[str],
) -> None:
    """Adds to the objects or detections of an image a drawing, and the boxes for frames."""
    own = [entries[index] for index in columns["index"]]
    scores = columns.get("score", [1000] * len(own))
    lowest = measures.thousandths(SCORE_THRESHOLD)
    boxes = np.array([entry["bbox"] for entry in own], np.float64).reshape(-1, 4)
    finite = np.isfinite(boxes).all(1)  # Only finite boxes get a frame.
    columns["boxes"] = np.where(finite[:, None], boxes, 0).round(1).tolist()
    shown = [i for i, score in enumerate(scores) if score >= lowest]
    labels = [columns["class"][i] + 1 for i in shown]
    columns["drawing"] = drawings.data_uri(image, [own[i] for i in shown], labels, names)


def choose(
    images: Sequence[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Chooses the images to list, most mistakes first, and the images to draw.

    The images to draw are in turn those with the most missed and the most false instances.
    """
    mistakes = {image["id"]: measures.mistakes(image, SCORE_THRESHOLD) for image in images}
    listed = sorted(images, key=lambda image: -sum(mistakes[image["id"]]))[:MAX_LISTED]
    by_missed = sorted(listed, key=lambda image: -mistakes[image["id"]][0])
    by_false = sorted(listed, key=lambda image: -mistakes[image["id"]][1])
    turns = [image for pair in zip(by_missed, by_false, strict=True) for image in pair]
    drawn = list({image["id"]: image for image in turns}.values())[:MAX_DRAWN]
    return listed, drawn


def fill(
    data: dict[str, Any], template_name: str = "page.html", script_names: Sequence[str] = _SCRIPTS
) -> str:
    """Fills scripts, style and data into the placeholders of a template.

    Browsers never parse the data as HTML: the JSON has no "<", and scripts insert it as text.
    """
    folder = importlib.resources.files("maskrcnn_jax.report")
    names = template_name, "page.css", *script_names
    template, style, *scripts = ((folder / name).read_text(encoding="utf-8") for name in names)
    parts = {
        "title": html.escape(data["title"]),
        "style": style,
        "script": "\n".join(scripts),
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
