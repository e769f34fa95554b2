"""Runs both sides on images: single stages, the whole model, and images in other batches."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from maskrcnn_jax import images as image_files
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.parity import explanation, pairing
from maskrcnn_jax.parity.jax_model import JaxModel
from maskrcnn_jax.parity.padding import Size
from maskrcnn_jax.parity.records import Outcome, Peer, Stages
from maskrcnn_jax.parity.report import Comparison, Report, Stage
from maskrcnn_jax.parity.selection import Selection, Side
from maskrcnn_jax.parity.stages import StageOutputs, StageRunner

# Float32 sums of n products in different orders differ by about 6e-8 * sqrt(n), and C2 to C5 follow
# 10 to 50 such layers. The coordinates of RoIs, up to 1333 pixels, are rounded to 1.2e-4 pixels,
# while features vary within a cell of four pixels.
TOLERANCES = {"preprocessed image": 2e-6, "C2": 3e-6, "C3": 6e-6, "C4": 1.2e-5, "C5": 2e-5}
TOLERANCES |= {f"P{level}": 1e-5 for level in range(2, 7)}
TOLERANCES |= {f"objectness P{level}": 1e-5 for level in range(2, 7)}
TOLERANCES |= {f"deltas P{level}": 1e-5 for level in range(2, 7)}
TOLERANCES |= {"pooled for boxes": 5e-5, "class logits": 1e-5, "class deltas": 1e-5}
TOLERANCES |= {"pooled for masks": 5e-5, "mask logits": 1e-5}
PIXEL_TOLERANCES = {
    "anchors": 0.0,
    "proposals": 1e-3,
    "final boxes": 1e-3,
    "boxes in original pixels": 1e-3,
}
PROBABILITY_TOLERANCES = {"final scores": 1e-5, "pasted masks": 1e-5}
MASK_STAGES = ("pooled for masks", "mask logits", "pasted masks")  # For models with a mask head.
ALL_MAPS = {f"C{level}" for level in range(2, 6)} | {f"P{level}" for level in range(2, 7)}
# The last stages in the report, in this order.
ORDER = ["anchors", "proposals", "pooled for boxes", "class logits", "class deltas"]
ORDER += ["final boxes", "final scores", "boxes in original pixels", *MASK_STAGES]


class Comparer:
    """Compares our model with a peer's on images, one by one.

    Args:
        peer: The other program with its model.
        jax_model: Our model with the same weights and image sizes.
    """

    def __init__(self, peer: Peer, jax_model: JaxModel) -> None:
        self.peer, self.jax_model = peer, jax_model
        self.run_stages = StageRunner(jax_model)
        self.stages = make_stages(jax_model.config.model)
        self.alone = Comparison("each image alone")
        self.in_bucket = Comparison("ours alone, and in a larger bucket")
        self.in_batch = Comparison("ours alone, and in a batch")
        self.on_canvas = Comparison(f"{peer.name}'s batch, and ours on its canvas")

    def add(self, name: str, image: np.ndarray) -> Outcome:
        """Compares all stages and all detections of an image; returns our outcome."""
        (theirs,) = self.peer.predict([image])
        self._add_stages(theirs, self.run_stages(image, theirs))
        (ours,) = self.jax_model.predict([image])
        self.compare(self.alone, name, theirs.outcome, ours)
        return ours

    def compare(
        self,
        comparison: Comparison,
        name: str,
        theirs: Outcome,
        ours: Outcome,
        other: str | None = None,
    ) -> None:
        """Pairs the detections of two outcomes for an image, and explains the unpaired ones.

        ``other`` names the side of ``theirs``; by default the peer.
        """
        pairs = pairing.pair(theirs, ours)
        sides = self._side(other or self.peer.name, theirs), self._side("ours", ours)
        comparison.add(name, pairs, explanation.explain_detections(*sides, pairs))

    def add_batch(self, names: Sequence[str], images: Sequence[np.ndarray], bucket: Size) -> None:
        """Compares each image alone with the same image in a larger bucket, and in a batch.

        An image has the same detections in any bucket and any batch as long as its canvas is the
        same. With the canvas of the peer's batch our batch reproduces the peer's.

        Args:
            names: A name for each image.
            images: The images of a batch; a single image is only compared in a larger bucket.
            bucket: The bucket of the batch, which holds all images.
        """
        alone = [self.jax_model.predict([image])[0] for image in images]
        larger = bucket[0] + 32, bucket[1] + 32
        for name, image, one in zip(names, images, alone, strict=True):
            if self.jax_model.square:  # It fits no other bucket.
                break
            (padded,) = self.jax_model.predict([image], bucket=larger)
            self.compare(self.in_bucket, name, one, padded, "ours alone")
        if len(images) == 1:
            return
        together = self.jax_model.predict(images, bucket)
        for name, one, other in zip(names, alone, together, strict=True):
            self.compare(self.in_batch, name, one, other, "ours alone")
        theirs = [stages.outcome for stages in self.peer.predict(images)]
        ours = self.jax_model.predict(images, bucket, theirs[0].canvas)
        for name, one, other in zip(names, theirs, ours, strict=True):
            self.compare(self.on_canvas, name, one, other)

    def comparisons(self) -> list[Comparison]:
        """The comparisons of whole images so far."""
        possible = self.alone, self.in_bucket, self.in_batch, self.on_canvas
        return [comparison for comparison in possible if comparison.num_images]

    def num_compiled(self) -> int:
        """The number of compiled programs: whole models, stages for each bucket, and the heads."""
        num_buckets = len(self.run_stages.compiled)
        return len(self.jax_model.compiled) + num_buckets + (num_buckets > 0)

    def _side(self, name: str, outcome: Outcome) -> Side:
        config = self.jax_model.config
        if name != self.peer.name:
            return Side(name, outcome, config)
        return Side(name, outcome, config, self.peer.max_boxes_with_offsets, self.peer.sorts_by)

    def _add_stages(self, theirs: Stages, outputs: StageOutputs) -> None:
        ours = outputs.stages
        for name, (a, b) in _arrays(theirs, ours).items():
            self.stages[name].add(relative_error(a, b))
        for name, (a, b) in _absolute_arrays(theirs.outcome, ours.outcome).items():
            self.stages[name].add(float(np.abs(a - b).max(initial=0)))
        given = theirs.outcome
        proposed = given._replace(proposals=ours.outcome.proposals)
        self._add_selections(given, proposed, outputs.detections)

    def _add_selections(self, given: Outcome, proposed: Outcome, detected: Outcome) -> None:
        """Compares the selections of proposals and of detections."""
        theirs, ours = self._side(self.peer.name, given), self._side("ours", proposed)
        error = _common(theirs.proposals, ours.proposals, given.proposals, proposed.proposals)
        self.stages["proposals"].add(error, explanation.explain_proposals(theirs, ours))
        # These detections come from the peer's proposals, which the peer has sorted.
        ours = dataclasses.replace(self._side("ours", detected), sorts_by=self.peer.sorts_by)
        selections = theirs.detections, ours.detections
        pairs = pairing.Pairing([], *_alone(*selections), 0.0, 0.0, None)
        error = _common(*selections, given.boxes, detected.boxes)
        left_overs = explanation.explain_detections(theirs, ours, pairs)
        self.stages["final boxes"].add(error, left_overs)
        error = _common(*selections, given.scores[:, None], detected.scores[:, None])
        self.stages["final scores"].add(error)


def make_stages(config: ModelConfig) -> dict[str, Stage]:
    """All stages of a model by name, in the order of the report, with no results yet."""
    has_masks, maps = config.mask_head is not None, {f"P{level}" for level in config.levels}
    maps |= {f"C{level}" for level in ((2, 3, 4, 5) if config.fpn else config.levels)}
    # All maps of a ViT come after its last block. A ConvNeXt has layer norms behind convolutions of
    # single channels; they enlarge small differences of neighbouring cells, with their rounding.
    is_resnet = isinstance(config.backbone, ResNetConfig)
    deep = {} if is_resnet else dict.fromkeys(("C2", "C3", "C4"), TOLERANCES["C5"])
    tolerances = {
        "relative": TOLERANCES | deep,
        "px": PIXEL_TOLERANCES,
        "probability": PROBABILITY_TOLERANCES,
    }
    found = {
        name: Stage(name, unit, tolerance)
        for unit, by_name in tolerances.items()
        for name, tolerance in by_name.items()
    }
    names = [name for name in TOLERANCES if name not in ORDER] + ORDER
    return {
        name: found[name]
        for name in names
        if (has_masks or name not in MASK_STAGES)
        and (name.split()[-1] in maps or name.split()[-1] not in ALL_MAPS)
    }


def run(
    comparer: Comparer,
    paths: Sequence[Path],
    *,
    title: str,
    batch_size: int = 2,
    advance: Callable[[int], None],
) -> Report:
    """Compares both sides on images, each alone and in a batch, and makes a report.

    Args:
        comparer: The two models.
        paths: The image files.
        title: The title of the report.
        batch_size: The largest number of images in a batch.
        advance: Called with a number of finished images; each image is finished twice.

    Raises:
        OSError: An image cannot be read. The message names the file.
    """
    start, model = time.monotonic(), comparer.jax_model
    sizes = []
    for path in paths:
        image = image_files.read_image(path)
        comparer.add(path.name, image)
        sizes.append(model.size(image))
        advance(1)
    for alike in by_orientation(sizes):
        bucket = model.bucket([sizes[i] for i in alike])
        for batch in batches(alike, batch_size):
            images = [image_files.read_image(paths[i]) for i in batch]
            comparer.add_batch([paths[i].name for i in batch], images, bucket)
            advance(len(batch))
    facts = {
        "images": len(paths),
        "short side": model.short_side,
        "long side at most": model.max_long_side,
        "programs compiled": comparer.num_compiled(),
        "seconds": round(time.monotonic() - start),
    }
    stages = list(comparer.stages.values())
    return Report(title, comparer.peer.name, stages, comparer.comparisons(), facts)


def by_orientation(sizes: Sequence[Size]) -> list[list[int]]:
    """Indices of landscape or square images, and of portrait images, each sorted by size."""
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    wide = [i for i in order if sizes[i][0] <= sizes[i][1]]
    high = [i for i in order if sizes[i][0] > sizes[i][1]]
    return [alike for alike in (wide, high) if alike]


def batches(indices: Sequence[int], size: int) -> list[list[int]]:
    """Divides indices into batches of at most ``size``, each spread over the sequence."""
    count = -(-len(indices) // size)
    return [list(indices[start::count]) for start in range(count)]


def relative_error(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest difference over the largest value of ``theirs``."""
    if theirs.shape != ours.shape:
        raise ValueError(f"expected arrays of one shape, got {theirs.shape} and {ours.shape}")
    largest = max(np.abs(theirs).max(initial=0), 1e-30)
    return float(np.abs(theirs - ours).max(initial=0) / largest)


def _arrays(theirs: Stages, ours: Stages) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The peer's and our arrays of the stages with a relative error."""
    pairs = {"preprocessed image": (theirs.image, ours.image)}
    by_level = {
        "C": (theirs.backbone, ours.backbone),
        "P": (theirs.pyramid, ours.pyramid),
        "objectness P": (theirs.outcome.objectness, ours.outcome.objectness),
        "deltas P": (theirs.outcome.deltas, ours.outcome.deltas),
    }
    for name, (a, b) in by_level.items():
        pairs |= {f"{name}{level}": (a[level], b[level]) for level in a}
    pairs |= {
        "pooled for boxes": (theirs.box_features, ours.box_features),
        "class logits": (theirs.outcome.class_logits, ours.outcome.class_logits),
        "class deltas": (theirs.outcome.class_deltas, ours.outcome.class_deltas),
    }
    if theirs.mask_logits is not None:
        pairs["pooled for masks"] = theirs.mask_features, ours.mask_features
        pairs["mask logits"] = theirs.mask_logits, ours.mask_logits
    return pairs


def _absolute_arrays(theirs: Outcome, ours: Outcome) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The peer's and our arrays of the stages with an error in pixels or of probabilities."""
    anchors = [np.concatenate([*outcome.anchors.values()]) for outcome in (theirs, ours)]
    pairs = {
        "anchors": tuple(anchors),
        "boxes in original pixels": (theirs.original_boxes, ours.original_boxes),
    }
    if theirs.masks is not None:
        pairs["pasted masks"] = theirs.masks, ours.masks
    return pairs


def _common(theirs: Selection, ours: Selection, a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between the rows of candidates that both sides selected."""
    common = [(rank, ours.rank[key]) for key, rank in theirs.rank.items() if key in ours.rank]
    return max((float(np.abs(a[i] - b[j]).max()) for i, j in common), default=0.0)


def _alone(theirs: Selection, ours: Selection) -> tuple[list[int], list[int]]:
    """The ranks of the candidates that only one side selected, for each side."""
    return tuple(
        [rank for key, rank in one.rank.items() if key not in other.rank]
        for one, other in ((theirs, ours), (ours, theirs))
    )
