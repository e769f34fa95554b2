"""The numbers of a report: average precision, curves, histograms and the mistakes in each image.

All numbers come from pycocotools' matches, so the page agrees with the AP. pycocotools matches
detections greedily by descending score, so detections below a threshold cannot change the matches
above it. The counts at any threshold therefore follow from the matches of all detections. Scores
are integers in thousandths, which keeps the page small. Annotations of LVIS follow its rule: what
their labels cannot judge counts neither as correct nor as false.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools.cocoeval import COCOeval

from maskrcnn_jax import coco_metrics

IOU_TYPES = ("segm", "bbox")
NUM_BINS = 20  # Bins of the scores from 0 to 1. Thresholds on the page are bin edges.

# Slices of COCO's ten IoU thresholds.
_CURVES = {"IoU 0.5": slice(0, 1), "IoU 0.75": slice(5, 6), "IoU 0.5:0.95": slice(None)}


class Matches(NamedTuple):
    """The matches at IoU 0.5, without crowds and detections of crowds."""

    # By object id: the score of the matched detection in thousandths, or -1 for a missed object.
    found: dict[int, int]
    # By detection id, which counts results from 1: whether the detection matches an object.
    correct: dict[int, bool]


def measure(
    annotations: dict, results: Sequence[dict], max_detections: int, *, masks: bool = True
) -> dict[str, Any]:
    """Computes all numbers of a report as plain values for JSON. Undefined numbers are None.

    Args:
        annotations: Ground truth in COCO's format.
        results: Detections in COCO's results format; may be empty.
        max_detections: The number of best detections that count in each image and class; with LVIS,
            in each image.
        masks: Whether the results have masks. Otherwise only boxes are measured.
    """
    kinds = IOU_TYPES if masks else ("bbox",)
    evaluators = {
        kind: coco_metrics.run_coco(annotations, results, kind, max_detections, keep_matches=True)
        for kind in kinds
    }
    matches = {kind: match(evaluator, max_detections) for kind, evaluator in evaluators.items()}
    category_ids = [int(i) for i in evaluators["bbox"].params.catIds]
    class_of = {category_id: i for i, category_id in enumerate(category_ids)}
    images = _images(annotations, results, matches, class_of)
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    class_names = [names[category_id] for category_id in category_ids]
    overall, classes = _classes(evaluators, images, class_names, max_detections)
    numbers = {}
    for kind, evaluator in evaluators.items():
        twelve = coco_metrics.twelve_numbers(evaluator, max_detections)
        numbers[kind] = {name: _defined(x) for name, x in twelve.items()}
    return {
        "kinds": list(kinds),
        "numbers": numbers,
        "maxDetections": max_detections,
        "overall": overall,
        "classes": classes,
        "images": images,
    }


def _classes(
    evaluators: dict[str, Any],
    images: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    max_detections: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The number of objects, the curves and the histograms of all classes together, and of each."""
    classes: list[dict[str, Any]] = [{"name": name} for name in class_names]
    overall: dict[str, Any] = {"name": "all classes"}
    for kind, evaluator in evaluators.items():
        counts = _histograms(images, kind, len(classes))
        limit = evaluator.params.maxDets.index(max_detections)
        precision = evaluator.eval["precision"][:, :, :, 0, limit]
        for i, entry in enumerate(classes):
            entry[kind] = _curves(precision[:, :, i : i + 1]) | _bins(counts[i])
        overall[kind] = _curves(precision) | _bins(counts.sum(0))
    labels = [label for image in images for label in image["objects"]["class"]]
    num_objects = np.bincount(labels, minlength=len(classes))
    overall["objects"] = int(num_objects.sum())
    for entry, count in zip(classes, num_objects, strict=True):
        entry["objects"] = int(count)
    return overall, classes


def match(evaluator: COCOeval, max_detections: int) -> Matches:
    """Collects the matches at IoU 0.5 from pycocotools' results per image and class.

    Args:
        evaluator: An evaluator of `run_coco` with ``keep_matches``.
        max_detections: The argument of that call.
    """
    found, correct = {}, {}
    num_images, num_areas = len(evaluator.params.imgIds), len(evaluator.params.areaRng)
    for category in range(len(evaluator.params.catIds)):
        first = category * num_areas * num_images  # The first area is "all".
        for result in filter(None, evaluator.evalImgs[first : first + num_images]):
            counting = np.logical_not(result["gtIgnore"])
            pairs = zip(result["gtIds"], counting, strict=True)
            found |= {int(i): -1 for i, counts in pairs if counts}
            columns = zip(
                result["dtIds"],
                result["dtScores"],
                result["dtMatches"][0],
                result["dtIgnore"][0],
                strict=True,
            )
            for detection, score, matched, ignored in list(columns)[:max_detections]:
                if not ignored:
                    correct[int(detection)] = bool(matched)
                    if matched:
                        found[int(matched)] = thousandths(score)
    return Matches(found, correct)


def thousandths(score: float) -> int:
    """Rounds a score in [0, 1] down to thousandths, so that it stays below a higher threshold.

    The added 1e-4 is below the sixth digit, to which files round scores.
    """
    return int(score * 1000 + 1e-4)


def _images(
    annotations: dict,
    results: Sequence[dict],
    matches: dict[str, Matches],
    class_of: dict[int, int],
) -> list[dict[str, Any]]:
    """All images, each with columns of its objects and detections: index, class, score, matches."""
    images = {}
    for entry in annotations["images"]:
        name = entry.get("file_name") or f"image {entry['id']}"
        columns = {"index": [], "class": [], **{kind: [] for kind in matches}}
        images[entry["id"]] = {
            "id": entry["id"],
            "name": name,
            "size": [entry["width"], entry["height"]],
            "objects": columns,
            "detections": {key: [] for key in (*columns, "score")},
        }
    # The ids in matches count objects and detections from 1.
    for index, annotation in enumerate(annotations["annotations"]):
        if index + 1 in matches["bbox"].found:
            columns = images[annotation["image_id"]]["objects"]
            columns["index"].append(index)
            columns["class"].append(class_of[annotation["category_id"]])
            for kind, its in matches.items():
                columns[kind].append(its.found[index + 1])
    for index, result in enumerate(results):
        outcomes = {kind: its.correct.get(index + 1) for kind, its in matches.items()}
        if result["category_id"] in class_of:
            columns = images[result["image_id"]]["detections"]
            columns["index"].append(index)
            columns["class"].append(class_of[result["category_id"]])
            columns["score"].append(thousandths(result["score"]))
            for kind, outcome in outcomes.items():
                columns[kind].append({True: 1, False: 0, None: -1}[outcome])
    return list(images.values())


def _histograms(images: Sequence[dict[str, Any]], kind: str, num_classes: int) -> np.ndarray:
    """Counts false and correct detections by class and score: int64 [classes, 2, bins]."""
    counts = np.zeros((num_classes, 2, NUM_BINS), np.int64)
    for image in images:
        columns = image["detections"]
        rows = zip(columns["class"], columns["score"], columns[kind], strict=True)
        for label, score, outcome in rows:
            if outcome >= 0:
                counts[label, outcome, min(score * NUM_BINS // 1000, NUM_BINS - 1)] += 1
    return counts


def _bins(counts: np.ndarray) -> dict[str, list[int]]:
    false, correct = counts.tolist()
    return {"correct": correct, "false": false}


def _curves(precision: Float[np.ndarray, "thresholds recalls classes"]) -> dict[str, Any]:
    """AP, and precision at the recalls 0, 0.01, ..., 1: means over the classes with objects."""
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
    """Counts the missed objects and the false detections of an image of `measure`.

    Detections below the threshold do not count. Masks are matched, or boxes without a mask head.
    """
    lowest, detections = thousandths(threshold), image["detections"]
    kind = "segm" if "segm" in detections else "bbox"
    missed = sum(score < lowest for score in image["objects"][kind])
    outcomes = zip(detections["score"], detections[kind], strict=True)
    return missed, sum(score >= lowest and outcome == 0 for score, outcome in outcomes)
