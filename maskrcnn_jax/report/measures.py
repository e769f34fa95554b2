"""The numbers of a report: average precision, curves, histograms, and what each image missed or made up.

Everything comes from pycocotools' own matches, so the page agrees with the AP. Its greedy matching takes detections by
descending score, so leaving out those below a threshold changes no match above it: the counts at any threshold follow
from the matches of all detections. Scores are in thousandths, so that the page stays small.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools.cocoeval import COCOeval

from maskrcnn_jax import evaluation

IOU_TYPES = ("segm", "bbox")
NUM_BINS = 20  # Of the scores from 0 to 1; thresholds on the page are their edges.

_CURVES = {"IoU 0.5": slice(0, 1), "IoU 0.75": slice(5, 6), "IoU 0.5:0.95": slice(None)}  # Of COCO's ten thresholds.


class Matches(NamedTuple):
    """Who found whom at IoU 0.5. Crowds, and detections of crowds, are left out."""

    found: dict[int, int]  # For the id of each object the score of its detection, in thousandths; -1 if it has none.
    correct: dict[int, bool]  # For the id of each detection whether it found an object. Ids number the results from 1.


def measure(annotations: dict, results: Sequence[dict], max_detections: int) -> dict[str, Any]:
    """All numbers of a report, ready for JSON; None where a number is undefined.

    Args:
      annotations: ground truth in COCO's format.
      results: detections in COCO's results format, with "bbox" and "segmentation", possibly none.
      max_detections: per image and class, best first, that count.
    """
    evaluators = {
        kind: evaluation.run_coco(annotations, results, kind, max_detections, keep_matches=True) for kind in IOU_TYPES
    }
    matches = {kind: match(evaluator, max_detections) for kind, evaluator in evaluators.items()}
    category_ids = [int(i) for i in evaluators["segm"].params.catIds]
    images = _images(annotations, results, matches, {category_id: i for i, category_id in enumerate(category_ids)})
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    counts = {kind: _histograms(images, kind, len(category_ids)) for kind in IOU_TYPES}
    classes = [{"name": names[category_id]} for category_id in category_ids]
    overall: dict[str, Any] = {"name": "all classes"}
    for kind, evaluator in evaluators.items():
        precision = evaluator.eval["precision"][:, :, :, 0, evaluator.params.maxDets.index(max_detections)]
        for i, entry in enumerate(classes):
            entry[kind] = _curves(precision[:, :, i : i + 1]) | _bins(counts[kind][i])
        overall[kind] = _curves(precision) | _bins(counts[kind].sum(0))
    num_objects = np.bincount([i for image in images for i in image["objects"]["class"]], minlength=len(classes))
    for entry, count in zip([overall, *classes], [num_objects.sum(), *num_objects], strict=True):
        entry["objects"] = int(count)
    numbers = {kind: evaluation.twelve_numbers(evaluator, max_detections) for kind, evaluator in evaluators.items()}
    return {
        "numbers": {kind: {name: _defined(x) for name, x in values.items()} for kind, values in numbers.items()},
        "maxDetections": max_detections,
        "overall": overall,
        "classes": classes,
        "images": images,
    }


def match(evaluator: COCOeval, max_detections: int) -> Matches:
    """Collects the matches at IoU 0.5 from pycocotools' results for images and classes.

    Args:
      evaluator: after `run_coco`.
      max_detections: as given there.
    """
    found, correct = {}, {}
    num_images, num_areas = len(evaluator.params.imgIds), len(evaluator.params.areaRng)
    for category in range(len(evaluator.params.catIds)):
        first = category * num_areas * num_images  # Of all areas, "all" comes first.
        for result in filter(None, evaluator.evalImgs[first : first + num_images]):
            counting = np.logical_not(result["gtIgnore"])
            found |= {int(i): -1 for i, counts in zip(result["gtIds"], counting, strict=True) if counts}
            columns = zip(
                result["dtIds"], result["dtScores"], result["dtMatches"][0], result["dtIgnore"][0], strict=True
            )
            for detection, score, matched, ignored in list(columns)[:max_detections]:
                if not ignored:
                    correct[int(detection)] = bool(matched)
                    if matched:
                        found[int(matched)] = thousandths(score)
    return Matches(found, correct)


def thousandths(score: float) -> int:
    """A score in [0, 1] rounded down, so that it stays on its side of a threshold; written scores have six digits."""
    return int(score * 1000 + 1e-4)


def _images(
    annotations: dict, results: Sequence[dict], matches: dict[str, Matches], class_of: dict[int, int]
) -> list[dict[str, Any]]:
    """Every image with its objects and detections, each a column of indices, classes, scores and matches."""
    images = {}
    for entry in annotations["images"]:
        name = entry.get("file_name") or f"image {entry['id']}"
        columns = {"index": [], "class": [], **{kind: [] for kind in IOU_TYPES}}
        images[entry["id"]] = {
            "id": entry["id"],
            "name": name,
            "size": [entry["width"], entry["height"]],
            "objects": columns,
            "detections": {key: [] for key in (*columns, "score")},
        }
    # Matches number objects and detections from 1.
    for index, annotation in enumerate(annotations["annotations"]):
        if index + 1 in matches["segm"].found:
            columns = images[annotation["image_id"]]["objects"]
            columns["index"].append(index)
            columns["class"].append(class_of[annotation["category_id"]])
            for kind in IOU_TYPES:
                columns[kind].append(matches[kind].found[index + 1])
    for index, result in enumerate(results):
        outcomes = {kind: matches[kind].correct.get(index + 1) for kind in IOU_TYPES}
        if result["category_id"] in class_of:
            columns = images[result["image_id"]]["detections"]
            columns["index"].append(index)
            columns["class"].append(class_of[result["category_id"]])
            columns["score"].append(thousandths(result["score"]))
            for kind in IOU_TYPES:
                columns[kind].append({True: 1, False: 0, None: -1}[outcomes[kind]])
    return list(images.values())


def _histograms(images: Sequence[dict[str, Any]], kind: str, num_classes: int) -> np.ndarray:
    """Numbers of false and of correct detections of each class by score: int64 of shape (classes, 2, bins)."""
    counts = np.zeros((num_classes, 2, NUM_BINS), np.int64)
    for image in images:
        columns = image["detections"]
        for label, score, outcome in zip(columns["class"], columns["score"], columns[kind], strict=True):
            if outcome >= 0:
                counts[label, outcome, min(score * NUM_BINS // 1000, NUM_BINS - 1)] += 1
    return counts


def _bins(counts: np.ndarray) -> dict[str, list[int]]:
    false, correct = counts.tolist()
    return {"correct": correct, "false": false}


def _curves(precision: Float[np.ndarray, "thresholds recalls classes"]) -> dict[str, Any]:
    """AP and the precision at the recalls 0, 0.01, ..., 1, means over the classes that have objects."""
    defined = precision[:, :, (precision > -1).all((0, 1))]
    if not defined.size:
        return {"ap": dict.fromkeys(_CURVES), "curves": dict.fromkeys(_CURVES)}
    means = {name: defined[chosen].mean((0, 2)) for name, chosen in _CURVES.items()}
    return {
        "ap": {name: float(mean.mean()) for name, mean in means.items()},
        "curves": {name: np.rint(1000 * mean).astype(int).tolist() for name, mean in means.items()},
    }


def _defined(value: float) -> float | None:
    return None if value == -1 else value


def mistakes(image: dict[str, Any], threshold: float) -> tuple[int, int]:
    """How many objects an image of `measure` missed, and how many false masks it has, from a score on."""
    lowest, detections = thousandths(threshold), image["detections"]
    missed = sum(score < lowest for score in image["objects"]["segm"])
    outcomes = zip(detections["score"], detections["segm"], strict=True)
    return missed, sum(score >= lowest and outcome == 0 for score, outcome in outcomes)
