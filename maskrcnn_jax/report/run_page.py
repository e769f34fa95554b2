"""Writes the report of a training run as one HTML page: its curves, its numbers, and what it finds in some images."""

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrcnn_jax import evaluation, gallery
from maskrcnn_jax.checkpoints import read_settings
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.evaluation import Evaluation
from maskrcnn_jax.report import page, pictures

NUM_PICTURED = 8  # Images, taken evenly from the validation set.
MAX_ENTRIES = 2000  # Of the log, beyond which neighbours are averaged, so that long runs do not make the page slow.

_SCRIPTS = ("elements.js", "charts.js", "lines.js", "run.js")  # In the order they need one another.


def write(directory: str | Path, result: Evaluation, dataset: Any, annotations: dict[str, Any]) -> None:
    """Writes `report.html` into a run directory, from its log and settings and its last evaluation.

    Args:
        directory: of the run, with ``config.json``, ``categories.json`` and ``metrics.jsonl``.
        result: the last evaluation.
        dataset: the validation images, with `image_ids`; indexing reads one as an `Example`.
        annotations: their ground truth in COCO's format.
    """
    directory = Path(directory)
    config, categories = read_settings(directory)
    entries = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    objects = [found for found in annotations["annotations"] if not found.get("iscrowd", 0)]
    data = {
        "title": f"Training run {directory.absolute().name}",
        "overview": (
            f"{config.num_steps:,} steps of {config.batch_size} images; {len(annotations['images']):,} validation "
            f"images with {len(objects):,} objects of {len(categories)} classes."
        ),
        "threshold": gallery.SCORE_THRESHOLD,
        "numbers": {"segm": _defined(result.segm), "bbox": _defined(result.bbox)},
        "classes": _classes(categories, evaluation.class_names(annotations), objects, result),
        "evaluations": [
            {"step": entry["step"]} | {name: _defined(entry[name]) for name in ("segm", "bbox", "validation")}
            for entry in entries
            if "segm" in entry
        ],
        "log": columns([entry for entry in entries if "loss" in entry]),
        "pictures": _pictures(dataset, objects, result.detections, categories),
        "config": _fields(config, type(config)()),
    }
    text = page.fill(data, "run.html", _SCRIPTS)
    (directory / "report.html").write_text(text, encoding="utf-8")


def columns(entries: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Entries of a log as a list for each name, shortened to at most `MAX_ENTRIES` means; None where there is nothing.

    A step stands for the steps up to it, so of several it is the last.
    """
    size = max(math.ceil(len(entries) / MAX_ENTRIES), 1)
    groups = [entries[i : i + size] for i in range(0, len(entries), size)]
    names = {name: None for entry in entries for name in entry if name != "step"}
    found = {name: [_mean(group, name) for group in groups] for name in names}
    return {"step": [group[-1]["step"] for group in groups]} | found


def _mean(entries: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [entry[name] for entry in entries if name in entry and math.isfinite(entry[name])]
    return float(f"{sum(values) / len(values):.5g}") if values else None


def _defined(numbers: dict[str, float]) -> dict[str, float | None]:
    """COCO's numbers or losses, with None for what is undefined."""
    return {name: None if value == -1 or not math.isfinite(value) else value for name, value in numbers.items()}


def _classes(
    categories: Categories, measured: dict[int, str], objects: Sequence[dict], result: Evaluation
) -> list[dict[str, Any]]:
    """Every class with its numbers, which the result has under the measured names of the category ids."""
    counts = Counter(found["category_id"] for found in objects)
    per_class = {"segm": _defined(result.segm_per_class), "bbox": _defined(result.bbox_per_class)}
    return [
        {"id": category_id, "name": name, "objects": counts[category_id]}
        | {kind: values.get(measured.get(category_id)) for kind, values in per_class.items()}
        for category_id, name in zip(categories.ids, categories.names, strict=True)
    ]


def _pictures(
    dataset: Any, objects: Sequence[dict], detections: Sequence[dict], categories: Categories
) -> list[dict[str, str]]:
    """Some images, each with a picture of its objects and one of its detections."""
    names = list(categories.names)
    by_image: dict[Any, tuple[list[dict], list[dict]]] = defaultdict(lambda: ([], []))
    for found in objects:
        by_image[found["image_id"]][0].append(found)
    for found in detections:
        if found["score"] > gallery.SCORE_THRESHOLD:
            by_image[found["image_id"]][1].append(found)
    pictured = []
    for index in gallery.evenly(len(dataset), NUM_PICTURED):
        example = dataset[index]
        truth, found = (
            pictures.data_uri(example.image, chosen, [categories.label(x["category_id"]) for x in chosen], names)
            for chosen in by_image[example.image_id]
        )
        pictured.append({"name": f"image {example.image_id}", "truth": truth, "found": found})
    return pictured


def _fields(config: Any, default: Any, prefix: str = "") -> list[dict[str, Any]]:
    """Every setting by its full name, with its default."""
    found = []
    for name in config.__dataclass_fields__:
        value, usual = getattr(config, name), getattr(default, name)
        if dataclasses.is_dataclass(value):
            found += _fields(value, usual, f"{prefix}{name}.")
        else:
            texts = {"value": str(value), "default": str(usual)}
            found.append({"field": prefix + name, "changed": texts["value"] != texts["default"]} | texts)
    return found
