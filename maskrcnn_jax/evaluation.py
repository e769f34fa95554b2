"""COCO box and mask average precision, and the losses on held-out images.

Detections become COCO results: category ids instead of labels, boxes as x, y, width, height and masks as run lengths,
in pixels of the original images. An undefined number, such as the AP of small objects where there are none, is -1.
"""

import contextlib
import functools
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

try:
    import faster_coco_eval
except ImportError:
    faster_coco_eval = None

from maskrcnn_jax import compiler, distributed, pasting, sharding
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.structures import Batch, Detections


class Evaluation(NamedTuple):
    """Everything one pass over a validation set says."""

    bbox: dict[str, float]  # The twelve COCO numbers of the boxes, as fractions.
    segm: dict[str, float]  # The same of the masks.
    losses: dict[str, float]  # The five losses over the whole set, and "loss", their sum; or none.
    bbox_per_class: dict[str, float]  # AP of each category, by its name in `class_names`.
    segm_per_class: dict[str, float]
    detections: list[dict]  # COCO results, with "bbox" and "segmentation".


def evaluate(
    model: Any,
    variables: Any,
    batches: Iterable,
    annotations: dict,
    categories: Categories,
    config: Config,
    *,
    advance: Callable[[int], object] = lambda num_images: None,
) -> Evaluation:
    """Runs the model over a validation set, on the devices of this process, and adds what other processes found.

    The random draws of the losses depend on the image only, so the numbers are repeatable.

    Args:
      model: the `MaskRCNN` to evaluate.
      variables: its parameters and constants.
      batches: `EvalBatch`es of `config.test_batch_size` images, once over this process's share of the set; entries that
        are not `real` count for nothing.
      annotations: the ground truth of the whole set in COCO's format.
      categories: names, and ids as in `annotations`, of the labels 1, 2, ...
      config: the experiment; AP and the AR of sizes are at `config.model.detection.num_detections` per image.
      advance: called with the number of images after each batch.
    """
    num_devices = math.gcd(config.test_batch_size, jax.local_device_count())
    mesh = sharding.make_mesh(num_devices, config.test_batch_size, jax.local_devices())
    variables = sharding.replicate(variables, mesh)
    detect, losses_of = _programs(model, mesh, config.model.deterministic)
    records = []
    for batch, original_sizes, real in batches:
        detections = jax.device_get(detect(variables, batch.images, batch.sizes, batch.canvas))
        losses = jax.device_get(losses_of(variables, batch))
        for i in np.flatnonzero(real):
            size, original_size = _pair(batch.sizes[i]), _pair(original_sizes[i])
            found = pasting.to_original(_slice(detections, i), size, original_size)
            image_id = int(batch.image_id[i])
            results = coco_results(found, original_size, image_id, categories.ids)
            records.append((image_id, results, {name: [float(x[i]) for x in pair] for name, pair in losses.items()}))
        advance(int(np.sum(real)))
    return _summarise(distributed.gather(records), annotations, config.model.detection.num_detections)


def evaluate_pictures(
    detect: Callable[[np.ndarray], pasting.ImageDetections],
    dataset: Any,
    annotations: dict,
    categories: Categories,
    max_detections: int,
    *,
    advance: Callable[[int], object] = lambda num_images: None,
) -> Evaluation:
    """The same of anything that detects, picture by picture in this process; without the losses.

    Args:
      detect: an image, uint8 (H, W, 3), to its detections, with the labels of the categories.
      dataset: the validation images: `CocoDataset` and its like.
      annotations: as in `evaluate`, and so are the others.
    """
    records = []
    for index in range(len(dataset)):
        example = dataset[index]
        results = coco_results(detect(example.image), example.image.shape[:2], example.image_id, categories.ids)
        records.append((example.image_id, results, {}))
        advance(1)
    return _summarise(records, annotations, max_detections)


@functools.lru_cache(maxsize=8)
def _programs(model: Any, mesh: Mesh, deterministic: bool) -> tuple[Callable[..., Detections], Callable[..., dict]]:
    """Programs for detections, and for sum and count of each loss; kept, for training evaluates many times.

    Losses are those of each image: one that is not real would count in those of its batch.
    """

    def losses_of(variables: Any, image: Batch) -> dict:
        alone = jax.tree.map(lambda x: x[None], image)
        return model.apply(variables, alone, jax.random.key(0), method="losses")[0]

    jit = compiler.jit(deterministic, mesh)
    losses_of_each = jax.vmap(losses_of, in_axes=(None, 0))
    return tuple(jit(sharding.separately(function, mesh)) for function in (model.apply, losses_of_each))


def _slice(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _pair(size: Any) -> tuple[int, int]:
    height, width = np.asarray(size).tolist()
    return height, width


def _summarise(records: list[Any], annotations: dict, max_detections: int) -> Evaluation:
    # In the order of the images, so that neither ties nor rounding depend on who found what, and when.
    order = {image["id"]: i for i, image in enumerate(annotations["images"])}
    records = sorted(records, key=lambda record: order[record[0]])
    results = [result for _, results, _ in records for result in results]
    totals: dict[str, np.ndarray] = {}
    for _, _, losses in records:
        for name, pair in losses.items():
            totals[name] = totals.get(name, 0) + np.array(pair, np.float64)
    bbox, segm = (run_coco(annotations, results, iou_type, max_detections) for iou_type in ("bbox", "segm"))
    losses = {name: float(total / max(count, 1)) for name, (total, count) in totals.items()}
    return Evaluation(
        bbox=twelve_numbers(bbox, max_detections),
        segm=twelve_numbers(segm, max_detections),
        losses=losses | ({"loss": sum(losses.values())} if losses else {}),
        bbox_per_class=_per_class(bbox, max_detections),
        segm_per_class=_per_class(segm, max_detections),
        detections=results,
    )


def coco_results(
    found: pasting.ImageDetections, size: tuple[int, int], image_id: int | str, category_ids: Sequence[int]
) -> list[dict]:
    """One image's detections as COCO results; masks are thresholded at 0.5, boxes are rounded to 0.001 pixels.

    Args:
      found: the detections in original pixels.
      size: height and width of the original image.
      image_id: of the image, as in the ground truth.
      category_ids: of the labels 1, 2, ...
    """
    results = []
    for box, label, score, (patch, offset) in zip(*found, strict=True):
        x0, y0, x1, y1 = box.tolist()
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[label - 1],
                "bbox": [round(x, 3) for x in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(score.item(), 6),
                "segmentation": pasting.encode(patch, offset, size),
            }
        )
    return results


def coco_summary(
    annotations: dict, results: Sequence[dict], iou_type: str, max_detections: int = 100
) -> dict[str, float]:
    """The twelve COCO numbers by name, as fractions; -1 where undefined.

    `AP*` and the AR of object sizes (`ARs`, `ARm`, `ARl`) are at `max_detections` per image, `AR1`, `AR10` and `AR100`
    at what they say. At 100 they equal pycocotools' own. The size of a detected mask is its area, as in the papers,
    which pycocotools does only for results without a "bbox".

    Args:
      annotations: ground truth in COCO's format.
      results: detections in COCO's results format, possibly none.
      iou_type: "bbox" or "segm".
      max_detections: per image, best first.
    """
    return twelve_numbers(run_coco(annotations, results, iou_type, max_detections), max_detections)


def per_class_ap(
    annotations: dict, results: Sequence[dict], iou_type: str, max_detections: int = 100
) -> dict[str, float]:
    """AP of each category, by `class_names`; -1 where there is no object of it. Arguments as in `coco_summary`."""
    return _per_class(run_coco(annotations, results, iou_type, max_detections), max_detections)


def run_coco(
    annotations: dict, results: Sequence[dict], iou_type: str, max_detections: int, *, keep_matches: bool = False
) -> Any:
    """Matches detections with the ground truth, image by image. Arguments as in `coco_summary`.

    By faster-coco-eval where it is installed (extra ``fast``), by pycocotools where it is not, where the matches of
    each image are wanted too, or where an id of an image is negative; the numbers are the same but for the last bit.

    Returns:
        The evaluator, with ``eval`` and ``params``, and with ``evalImgs`` if `keep_matches`.
    """
    negative = any(image["id"] < 0 for image in annotations["images"])
    fast = faster_coco_eval is not None and not keep_matches and not negative
    api = faster_coco_eval.COCO if fast else COCO
    evaluator_of = faster_coco_eval.COCOeval_faster if fast else COCOeval
    with contextlib.redirect_stdout(io.StringIO()):  # Both report by printing.
        truth = _index(api, annotations, annotations["annotations"])
        # A mask's size would be that of its box if it had one.
        dropped = {"bbox"} if iou_type == "segm" else {"segmentation"}
        results = [{key: value for key, value in result.items() if key not in dropped} for result in results]
        detected = truth.loadRes(results) if results else _index(api, annotations, [])
        evaluator = evaluator_of(truth, detected, iou_type)
        evaluator.params.maxDets = sorted({1, 10, 100, max_detections})
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _index(api: Callable[[], Any], annotations: dict, objects: Sequence[dict]) -> Any:
    """Objects looked up by image and category; numbered anew from 1, for the id 0 means "not matched" here."""
    coco = api()
    # Copies, because the objects are written into.
    coco.dataset = annotations | {"annotations": [entry | {"id": i} for i, entry in enumerate(objects, start=1)]}
    coco.createIndex()
    return coco


def twelve_numbers(evaluator: Any, max_detections: int) -> dict[str, float]:
    """The numbers of `coco_summary`, of what `run_coco` found."""

    def mean(values: np.ndarray, area: str, limit: int) -> float:
        params = evaluator.params
        values = values[..., params.areaRngLbl.index(area), params.maxDets.index(limit)]
        return _mean(values)

    precision = evaluator.eval["precision"]  # [IoU, recall, category, area, limit]
    recall = evaluator.eval["recall"]  # [IoU, category, area, limit]
    thresholds = evaluator.params.iouThrs
    return {
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


def _per_class(evaluator: Any, max_detections: int) -> dict[str, float]:
    limit = evaluator.params.maxDets.index(max_detections)
    precision = evaluator.eval["precision"][:, :, :, 0, limit]
    names = class_names(evaluator.cocoGt.dataset)
    return {names[category_id]: _mean(precision[:, :, i]) for i, category_id in enumerate(evaluator.params.catIds)}


def class_names(annotations: dict) -> dict[int, str]:
    """The name of every category by its id, which is added where several have the same name: "mouse (id 74)"."""
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    shared = {name for name, number in Counter(names.values()).items() if number > 1}
    return {i: f"{name} (id {i})" if name in shared else name for i, name in names.items()}


def _mean(values: Float[np.ndarray, "..."]) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def headline(evaluation: Evaluation) -> str:
    """The numbers to look at first, in one line."""
    bbox, segm = evaluation.bbox, evaluation.segm
    return (
        f"box AP {bbox['AP']:.3f}, AP50 {bbox['AP50']:.3f}, mask AP {segm['AP']:.3f}, AP50 {segm['AP50']:.3f}, "
        f"loss {evaluation.losses['loss']:.3f}"
    )


def write(directory: str | Path, evaluation: Evaluation) -> None:
    """Writes `evaluation.json` (the COCO numbers and the losses) and `detections.json` (COCO results)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    numbers = {"bbox": evaluation.bbox, "segm": evaluation.segm, "losses": evaluation.losses}
    (directory / "evaluation.json").write_text(json.dumps(numbers, indent=2) + "\n")
    (directory / "detections.json").write_text(json.dumps(evaluation.detections))
