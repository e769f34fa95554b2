"""Writes the report of a training run as one HTML page: curves, numbers and some detections."""

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrcnn_jax import coco_metrics, whole_files
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Dataset
from maskrcnn_jax.drawing import gallery
from maskrcnn_jax.evaluation import Evaluation
from maskrcnn_jax.report import drawings, page
from maskrcnn_jax.runs.run_directory import read_settings
from maskrcnn_jax.settings import shortened

NUM_DRAWN = 8  # Images, evenly spaced in the validation set.
# Longer logs are shortened to means of neighbouring entries; long logs make the page slow.
MAX_ENTRIES = 2000

# A script may use the scripts before it.
_SCRIPTS = ("elements.js", "charts.js", "lines.js", "run.js")


def write(
    directory: str | Path, result: Evaluation, dataset: Dataset, annotations: dict[str, Any]
) -> None:
    """Writes `report.html` into a run directory from its log, its settings and an evaluation.

    Args:
        directory: The run, with ``config.json`` and ``metrics.jsonl``.
        result: The last evaluation.
        dataset: The validation images.
        annotations: The ground truth of these images in COCO's format.
    """
    directory = Path(directory)
    config, categories = read_settings(directory)[0], dataset.categories
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    kinds = ("segm", "bbox") if result.segm is not None else ("bbox",)
    objects = [found for found in annotations["annotations"] if not found.get("iscrowd", 0)]
    data = {
        "title": f"Training run {directory.absolute().name}",
        "overview": (
            f"{config.num_steps:,} steps of {config.batch_size} images; "
            f"{len(annotations['images']):,} validation images with {len(objects):,} objects of "
            f"{len(categories)} classes."
        ),
        "threshold": gallery.SCORE_THRESHOLD,
        "kinds": list(kinds),
        "numbers": {kind: _defined(result.numbers[kind]) for kind in kinds},
        "classes": _classes(categories, coco_metrics.class_names(annotations), objects, result),
        "evaluations": [
            {"step": entry["step"]} | {key: _defined(entry[key]) for key in (*kinds, "validation")}
            for entry in entries
            if "bbox" in entry
        ],
        "log": columns([entry for entry in entries if "loss" in entry]),
        "drawings": _drawings(dataset, objects, result.detections, categories),
        "config": _fields(config, type(config)()),
    }
    text = page.fill(data, "run.html", _SCRIPTS)
    whole_files.write_text(directory / "report.html", text)


def columns(entries: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turns the entries of a log into one list per name, shortened to at most `MAX_ENTRIES` means.

    An entry covers the steps up to its own, so the step of a mean is that of its last entry. A mean
    without values is None.
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
    """COCO's numbers or losses, with None for undefined ones."""
    undefined = {name for name, x in numbers.items() if x == -1 or not math.isfinite(x)}
    return {name: None if name in undefined else x for name, x in numbers.items()}


def _classes(
    categories: Categories, measured: dict[int, str], objects: Sequence[dict], result: Evaluation
) -> list[dict[str, Any]]:
    """The name, the number of objects and the AP of each class.

    Args:
        categories: The classes.
        measured: The name of each category id in the results, see `coco_metrics.class_names`.
        objects: The annotated objects.
        result: The evaluation with AP by these names.
    """
    counts = Counter(found["category_id"] for found in objects)
    per_class = {"bbox": _defined(result.bbox_per_class)}
    if result.segm_per_class is not None:
        per_class["segm"] = _defined(result.segm_per_class)
    return [
        {"id": category_id, "name": name, "objects": counts[category_id]}
        | {kind: values.get(measured.get(category_id)) for kind, values in per_class.items()}
        for category_id, name in zip(categories.ids, categories.names, strict=True)
    ]


def _drawings(
    dataset: Dataset, objects: Sequence[dict], detections: Sequence[dict], categories: Categories
) -> list[dict[str, str]]:
    """Draws the objects and the detections of some images."""
    names = list(categories.names)
    by_image: dict[Any, tuple[list[dict], list[dict]]] = defaultdict(lambda: ([], []))
    for found in objects:
        by_image[found["image_id"]][0].append(found)
    for found in detections:
        if found["score"] > gallery.SCORE_THRESHOLD:
            by_image[found["image_id"]][1].append(found)
    drawn = []
    for index in gallery.evenly(len(dataset), NUM_DRAWN):
        example = dataset[index]
        pair = []
        for chosen in by_image[example.image_id]:
            labels = [categories.label(entry["category_id"]) for entry in chosen]
            pair.append(drawings.data_uri(example.image, chosen, labels, names))
        truth, found = pair
        drawn.append({"name": f"image {example.image_id}", "truth": truth, "found": found})
    return drawn


def _fields(config: Any, default: Any, prefix: str = "") -> list[dict[str, Any]]:
    """All settings by their full names, with their defaults."""
    found = []
    for name in config.__dataclass_fields__:
        value, usual = getattr(config, name), getattr(default, name)
        if dataclasses.is_dataclass(value):
            found += _fields(value, usual, f"{prefix}{name}.")
        else:
            texts = {"value": shortened(str(value)), "default": shortened(str(usual))}
            changed = texts["value"] != texts["default"]
            found.append({"field": prefix + name, "changed": changed} | texts)
    return found
