"""COCO box and mask average precision, and the losses on held-out images.

`coco_metrics` turns detections into COCO results and these into numbers. A model without a mask
head is evaluated by its boxes.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from maskrcnn_jax import coco_metrics, distributed, execution, pasting, sharding, whole_files
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.annotations import without_images
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Dataset
from maskrcnn_jax.structures import Batch, Detections

# The id of an image, its results in COCO's format, and the sum and the count of each loss. An image
# that could not be read has no results.
Record = tuple[int, list[dict[str, Any]] | None, dict[str, tuple[float, float]]]


class Evaluation(NamedTuple):
    """The results of one pass over a validation set."""

    # The twelve COCO numbers of boxes, as fractions; see `coco_metrics.coco_summary`.
    bbox: dict[str, float]
    segm: dict[str, float] | None  # Those of masks; None without a mask head.
    losses: dict[str, float]  # Means over the whole set, and their sum as "loss"; may be empty.
    bbox_per_class: dict[str, float]  # AP by the name in `coco_metrics.class_names`.
    segm_per_class: dict[str, float] | None
    detections: list[dict]  # COCO results with "bbox" and, with a mask head, "segmentation".
    missing: tuple[int, ...] = ()  # Ids of images that could not be read; nothing counts them.

    @property
    def ap(self) -> float:
        """The number that ranks models: mask AP, or box AP without a mask head."""
        return main_ap(self.numbers)

    @property
    def numbers(self) -> dict[str, dict[str, float]]:
        """The COCO numbers by kind: "bbox" and, with a mask head, "segm"."""
        return {"bbox": self.bbox} | ({} if self.segm is None else {"segm": self.segm})


def main_ap(numbers: dict[str, Any]) -> float:
    """Mask AP of `Evaluation.numbers`, or box AP without a mask head."""
    return numbers["segm" if "segm" in numbers else "bbox"]["AP"]


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
    """Runs the model over a validation set, on the devices of this process.

    The results include those of all other processes. The random draws of the losses depend on the
    image only, so the numbers are reproducible.

    Args:
        model: The `MaskRCNN` to evaluate; `Config.execution` says how it is computed here.
        variables: Its parameters and constants.
        batches: `EvalBatch`es of `Config.test_batch_size` images: one pass over this process's
            share of the set. Entries that are not `real` are padding and do not count.
        annotations: The ground truth of the whole set in COCO's format.
        categories: The names and the ids, as in ``annotations``, of the labels 1, 2, ...
        config: The experiment. AP and the AR of object sizes take
            `DetectionConfig.num_detections` detections per image.
        advance: Called with the number of images after each batch.
    """
    num_devices = math.gcd(config.test_batch_size, jax.local_device_count())
    mesh = sharding.make_mesh(num_devices, config.test_batch_size, jax.local_devices())
    variables = sharding.replicate(variables, mesh)
    # `sharding.per_device` has no communication, so stages map over the images of one device.
    run = execution.choose(config.execution, mesh)._replace(
        per_image=jax.vmap, per_pyramid=jax.vmap, per_device=execution.Execution().per_device
    )
    detect, losses_of = _programs(model.clone(run=run), run, mesh)
    records: list[Record] = []
    for batch, original_sizes, real in batches:
        detections = jax.device_get(detect(variables, batch.images, batch.sizes, batch.canvas))
        losses = jax.device_get(losses_of(variables, batch))
        for i in np.flatnonzero(real):
            if not batch.sizes[i].any():  # It could not be read, see `pack.nothing`.
                records.append((int(batch.image_id[i]), None, {}))
                continue
            size, original_size = _pair(batch.sizes[i]), _pair(original_sizes[i])
            found = pasting.to_original(
                _slice(detections, i), size, original_size, config.detection
            )
            image_id = int(batch.image_id[i])
            results = coco_metrics.coco_results(found, original_size, image_id, categories.ids)
            pairs = {name: (float(total[i]), float(n[i])) for name, (total, n) in losses.items()}
            records.append((image_id, results, pairs))
        advance(int(np.sum(real)))
    records = distributed.gather(records)
    has_masks = config.model.mask_head is not None
    return _summarise(records, annotations, config.detection.num_detections, masks=has_masks)


def evaluate_images(
    detect: Callable[[np.ndarray], pasting.ImageDetections],
    dataset: Dataset,
    annotations: dict,
    categories: Categories,
    max_detections: int,
    *,
    masks: bool = True,
    lost: dict[int, str] | None = None,
    advance: Callable[[int], object] = lambda num_images: None,
) -> Evaluation:
    """Evaluates any detection function on single images in this process, without losses.

    Args:
        detect: Maps an image, [h, w, c], to its detections, labelled by the categories.
        dataset: The validation images.
        annotations: As in `evaluate`.
        categories: As in `evaluate`.
        max_detections: The number of best detections that count in each image.
        masks: Whether the detections have masks.
        lost: Gets the reasons, by image id, of images that cannot be read. Without it they are
            errors.
        advance: Called with 1 after each image.
    """
    records: list[Record] = []
    for index in range(len(dataset)):
        try:
            example = dataset[index]
        except (OSError, ValueError, MemoryError) as error:
            if lost is None:
                raise
            image_id = int(dataset.image_ids[index])
            lost[image_id] = str(error)
            records.append((image_id, None, {}))
            advance(1)
            continue
        found, size = detect(example.image), example.image.shape[:2]
        results = coco_metrics.coco_results(found, size, example.image_id, categories.ids)
        records.append((example.image_id, results, {}))
        advance(1)
    return _summarise(records, annotations, max_detections, masks=masks)


@functools.lru_cache(maxsize=8)
def _programs(
    model: Any, run: execution.Execution, mesh: Mesh
) -> tuple[Callable[..., Detections], Callable[..., dict]]:
    """Compiles the functions for detections, and for the sum and count of each loss per image.

    The cache serves training, which evaluates many times. Losses are computed for single images,
    because padding images would count in the losses of their batch.
    """

    def losses_of(variables: Any, image: Batch) -> dict:
        alone = jax.tree.map(lambda x: x[None], image)
        return model.apply(variables, alone, jax.random.key(0), method="losses")[0]

    losses_of_each = jax.vmap(losses_of, in_axes=(None, 0))
    functions = model.apply, losses_of_each
    return tuple(run.jit(sharding.per_device(function, mesh)) for function in functions)


def _slice(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _pair(size: Any) -> tuple[int, int]:
    height, width = np.asarray(size).tolist()
    return height, width


def _summarise(
    records: list[Record], annotations: dict, max_detections: int, *, masks: bool
) -> Evaluation:
    # Sort by image, so that ties and rounding do not depend on the order of the processes.
    order = {image["id"]: i for i, image in enumerate(annotations["images"])}
    records = sorted(records, key=lambda record: order[record[0]])
    missing = tuple(image_id for image_id, results, _ in records if results is None)
    if missing and len(missing) == len(records):
        raise OSError(f"none of the {len(missing)} images to evaluate could be read")
    records = [record for record in records if record[1] is not None]
    annotations = without_images(annotations, missing)
    results = [result for _, results, _ in records for result in results or ()]
    losses = _mean_losses([pairs for _, _, pairs in records])
    bbox = coco_metrics.run_coco(annotations, results, "bbox", max_detections)
    segm = coco_metrics.run_coco(annotations, results, "segm", max_detections) if masks else None
    return Evaluation(
        bbox=coco_metrics.twelve_numbers(bbox, max_detections),
        segm=None if segm is None else coco_metrics.twelve_numbers(segm, max_detections),
        losses=losses,
        bbox_per_class=coco_metrics.class_aps(bbox, max_detections),
        segm_per_class=None if segm is None else coco_metrics.class_aps(segm, max_detections),
        detections=results,
        missing=missing,
    )


def _mean_losses(pairs_of_images: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Sums over counts of each loss, and the sum of all losses as "loss"; empty without losses."""
    totals: dict[str, np.ndarray] = {}
    for pairs in pairs_of_images:
        for name, pair in pairs.items():
            totals[name] = totals.get(name, 0) + np.array(pair, np.float64)
    losses = {name: float(total / max(count, 1)) for name, (total, count) in totals.items()}
    if not losses:
        return {}
    return losses | {"loss": sum(losses.values())}


def headline(evaluation: Evaluation) -> str:
    """One line with AP, AP50 and the loss."""
    words = {"bbox": "box", "segm": "mask"}
    numbers = evaluation.numbers.items()
    parts = [f"{words[kind]} AP {x['AP']:.3f}, AP50 {x['AP50']:.3f}" for kind, x in numbers]
    return ", ".join([*parts, f"loss {evaluation.losses['loss']:.3f}"])


def write(directory: str | Path, evaluation: Evaluation) -> None:
    """Writes `evaluation.json` (COCO numbers and losses) and `detections.json` (COCO results)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    numbers = evaluation.numbers | {"losses": evaluation.losses}
    whole_files.write_text(directory / "evaluation.json", json.dumps(numbers, indent=2) + "\n")
    whole_files.write_text(directory / "detections.json", json.dumps(evaluation.detections))
