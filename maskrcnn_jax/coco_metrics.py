"""COCO's results format, and the twelve COCO numbers of detections.

Undefined numbers are -1, such as the AP of small objects in a set without any. Annotations with the
fields of LVIS are evaluated by LVIS's rule, with three more numbers.
"""

import contextlib
import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

try:
    import faster_coco_eval
except ImportError:
    faster_coco_eval = None

from maskrcnn_jax import pasting
from maskrcnn_jax.data import lvis


def coco_results(
    found: pasting.ImageDetections,
    size: tuple[int, int],
    image_id: int | str,
    category_ids: Sequence[int],
) -> list[dict]:
    """One image's detections as COCO results: category ids instead of labels, boxes x, y, w, h.

    Boxes are rounded to 0.001 pixels; masks, if there are any, are thresholded at 0.5.

    Args:
        found: The detections in original pixels.
        size: Height and width of the original image.
        image_id: The id of the image in the ground truth.
        category_ids: The category ids of the labels 1, 2, ...
    """
    results = []
    for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        x0, y0, x1, y1 = box.tolist()
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[label - 1],
                "bbox": [round(x, 3) for x in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(score.item(), 6),
            }
        )
    if found.patches is not None:
        for result, (patch, offset) in zip(results, found.patches, strict=True):
            result["segmentation"] = pasting.encode(patch, offset, size)
    return results


def coco_summary(
    annotations: dict, results: Sequence[dict], iou_type: str, max_detections: int = 100
) -> dict[str, float]:
    """The twelve COCO numbers by name, as fractions; -1 if undefined. LVIS has fifteen.

    `AP*` and the AR of object sizes (`ARs`, `ARm`, `ARl`) take the best `max_detections` of each
    image; `AR1`, `AR10` and `AR100` take the number in their name. With `max_detections` of 100 all
    numbers equal pycocotools'. The size of a detected mask is its area, as in the COCO papers;
    pycocotools would use the area of "bbox" where a result has one.

    For annotations of LVIS (see `lvis.is_lvis`), `APr`, `APc` and `APf` are the AP of rare, common
    and frequent categories. The best `max_detections` of each image count, over all categories.

    Args:
        annotations: Ground truth in COCO's format.
        results: Detections in COCO's results format; may be empty.
        iou_type: "bbox" or "segm".
        max_detections: The number of best detections that count in each image.
    """
    return twelve_numbers(run_coco(annotations, results, iou_type, max_detections), max_detections)


def per_class_ap(
    annotations: dict, results: Sequence[dict], iou_type: str, max_detections: int = 100
) -> dict[str, float]:
    """AP by category, named as in `class_names`; -1 for a category without objects.

    The arguments are those of `coco_summary`.
    """
    return class_aps(run_coco(annotations, results, iou_type, max_detections), max_detections)


def run_coco(
    annotations: dict,
    results: Sequence[dict],
    iou_type: str,
    max_detections: int,
    *,
    keep_matches: bool = False,
) -> Any:
    """Matches detections with the ground truth of each image.

    Uses faster-coco-eval if it is installed (extra ``fast``), and pycocotools otherwise, for
    `keep_matches`, and for negative image ids. The numbers of the two differ by at most the last
    bit. The arguments are those of `coco_summary`.

    By LVIS's rule, detections of a category count in the images that are labelled for it, and those
    that match nothing do not count where its labels are not exhaustive.

    Returns:
        The evaluator with its fields ``eval`` and ``params``, and ``evalImgs`` if `keep_matches`.
        Ids of detections there count results from 1.
    """
    is_lvis = lvis.is_lvis(annotations)
    negative = any(image["id"] < 0 for image in annotations["images"])
    fast = faster_coco_eval is not None and not keep_matches and not negative
    api = faster_coco_eval.COCO if fast else COCO
    evaluator_of = faster_coco_eval.COCOeval_faster if fast else COCOeval
    if is_lvis:
        results = _judged(annotations, results, max_detections)
        if fast:
            evaluator_of = functools.partial(evaluator_of, lvis_style=True)
    with contextlib.redirect_stdout(io.StringIO()):  # Both libraries print their progress.
        truth = _index(api, annotations, annotations["annotations"])
        # pycocotools would take the size of a mask from its "bbox".
        dropped = "bbox" if iou_type == "segm" else "segmentation"
        results = [{k: v for k, v in result.items() if k != dropped} for result in results]
        detected = truth.loadRes(results) if results else _index(api, annotations, [])
        evaluator = evaluator_of(truth, detected, iou_type)
        evaluator.params.maxDets = sorted({1, 10, 100, max_detections})
        evaluator.evaluate()
        if is_lvis and not fast:
            _ignore_unlabelled(evaluator, annotations)
        evaluator.accumulate()
    return evaluator


def _judged(annotations: dict, results: Sequence[dict], max_detections: int) -> list[dict]:
    """The results of LVIS, without the category where one counts for nothing.

    The best results of each image count, over all categories, if its labels can judge them.
    """
    known = {image["id"]: set(image["neg_category_ids"]) for image in annotations["images"]}
    for entry in annotations["annotations"]:
        known[entry["image_id"]].add(entry["category_id"])
    left = dict.fromkeys(known, max_detections)
    nothing = 1 + max((category["id"] for category in annotations["categories"]), default=0)
    judged = list(results)
    for i in sorted(range(len(results)), key=lambda i: -results[i]["score"]):
        image_id, category_id = results[i]["image_id"], results[i]["category_id"]
        left[image_id] -= 1
        if category_id not in known[image_id] or left[image_id] < 0:
            judged[i] = results[i] | {"category_id": nothing}
    return judged


def _ignore_unlabelled(evaluator: COCOeval, annotations: dict) -> None:
    """Ignores detections that match nothing, where labels of their category are not exhaustive."""
    partly = {x["id"]: set(x["not_exhaustive_category_ids"]) for x in annotations["images"]}
    for result in filter(None, evaluator.evalImgs):
        if result["category_id"] in partly[result["image_id"]]:
            result["dtIgnore"] |= result["dtMatches"] == 0


def _index(api: Callable[[], Any], annotations: dict, objects: Sequence[dict]) -> Any:
    """Indexes objects by image and category. Ids start at 1, because 0 means "not matched"."""
    coco = api()
    # The evaluator writes into the objects, so it gets copies. LVIS has no crowds.
    numbered = [{"iscrowd": 0} | entry | {"id": i} for i, entry in enumerate(objects, start=1)]
    coco.dataset = annotations | {"annotations": numbered}
    coco.createIndex()
    return coco


def twelve_numbers(evaluator: Any, max_detections: int) -> dict[str, float]:
    """The numbers of `coco_summary` from an evaluator of `run_coco`."""

    def mean(values: np.ndarray, area: str, limit: int) -> float:
        params = evaluator.params
        values = values[..., params.areaRngLbl.index(area), params.maxDets.index(limit)]
        return _mean(values)

    precision = evaluator.eval["precision"]  # [IoU, recall, category, area, limit]
    recall = evaluator.eval["recall"]  # [IoU, category, area, limit]
    thresholds = evaluator.params.iouThrs
    numbers = {
        "AP": mean(precision, "all", max_detections),
        "AP50": mean(precision[thresholds == 0.5], "all", max_detections),
        "AP75": mean(precision[thresholds == 0.75], "all", max_detections),
        "APs": mean(precision, "small", max_detections),
        "APm": mean(precision, "medium", max_detections),
        "APl": mean(precision, "large", max_detections),
        "AR1": mean(recall, "all", 1),
        "AR10": mean(recall, "all", 10),
        "AR100": mean(recall, "all", 100),
        "ARs": mean(recall, "small", max_detections),
        "ARm": mean(recall, "medium", max_detections),
        "ARl": mean(recall, "large", max_detections),
    }
    annotations = evaluator.cocoGt.dataset
    if lvis.is_lvis(annotations):
        frequency_of = {x["id"]: x["frequency"] for x in annotations["categories"]}
        frequencies = np.array([frequency_of[i] for i in evaluator.params.catIds])
        for name in lvis.FREQUENCIES:
            numbers[f"AP{name}"] = mean(precision[:, :, frequencies == name], "all", max_detections)
    return numbers


def class_aps(evaluator: Any, max_detections: int) -> dict[str, float]:
    """The numbers of `per_class_ap` from an evaluator of `run_coco`."""
    limit = evaluator.params.maxDets.index(max_detections)
    precision = evaluator.eval["precision"][:, :, :, 0, limit]
    names = class_names(evaluator.cocoGt.dataset)
    ids = evaluator.params.catIds
    return {names[category_id]: _mean(precision[:, :, i]) for i, category_id in enumerate(ids)}


def class_names(annotations: dict) -> dict[int, str]:
    """The unique name of each category, by category id.

    Categories that share a name get their id added: "mouse (id 74)".
    """
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    shared = {name for name, number in Counter(names.values()).items() if number > 1}
    return {i: f"{name} (id {i})" if name in shared else name for i, name in names.items()}


def _mean(values: Float[np.ndarray, "..."]) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0
