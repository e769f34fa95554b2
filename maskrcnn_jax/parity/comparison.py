"""Runs both sides over pictures: every stage alone, the whole model, and whether its batch matters to a picture."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_jax import images
from maskrcnn_jax.parity import explanation, pairing
from maskrcnn_jax.parity.ours import Ours
from maskrcnn_jax.parity.padding import Size
from maskrcnn_jax.parity.records import Outcome, Stages
from maskrcnn_jax.parity.report import Comparison, Report, Stage
from maskrcnn_jax.parity.selection import Selection, Side
from maskrcnn_jax.parity.stages import Fed, Feeder

REFERENCE = "torchvision"

# Float32 sums of n products differ by about 6e-8 * sqrt(n) when added in another order; C2 to C5 lie behind 10 to 50
# layers of them. Corners of RoIs are rounded to 1.2e-4 of 1333 pixels, and features change within a cell of four.
TOLERANCES = {"preprocessed image": 2e-6, "C2": 3e-6, "C3": 6e-6, "C4": 1.2e-5, "C5": 2e-5}
TOLERANCES |= {f"P{level}": 1e-5 for level in range(2, 7)}
TOLERANCES |= {f"{name} P{level}": 1e-5 for name in ("objectness", "deltas") for level in range(2, 7)}
TOLERANCES |= {"pooled for boxes": 5e-5, "class logits": 1e-5, "class deltas": 1e-5}
TOLERANCES |= {"pooled for masks": 5e-5, "mask logits": 1e-5}
PIXEL_TOLERANCES = {"anchors": 0.0, "proposals": 1e-3, "final boxes": 1e-3, "boxes in original pixels": 1e-3}
PROBABILITY_TOLERANCES = {"final scores": 1e-5, "pasted masks": 1e-5}
ORDER = ["anchors", "proposals", "pooled for boxes", "class logits", "class deltas", "final boxes", "final scores"]
ORDER += ["boxes in original pixels", "pooled for masks", "mask logits", "pasted masks"]


class Comparer:
    """Compares one model on pictures, one after the other.

    Args:
        model: torchvision's.
        ours: Ours with the same weights and sizes.
        predict: `reference.predict`.
    """

    def __init__(self, model: Any, ours: Ours, predict: Callable[[Any, Sequence[np.ndarray]], list[Stages]]) -> None:
        self.model, self.ours, self._predict = model, ours, predict
        self.feeder = Feeder(ours)
        self.stages = {name: Stage(name, "relative", tolerance) for name, tolerance in TOLERANCES.items()}
        self.stages |= {name: Stage(name, "px", tolerance) for name, tolerance in PIXEL_TOLERANCES.items()}
        self.stages |= {name: Stage(name, "probability", value) for name, value in PROBABILITY_TOLERANCES.items()}
        self.alone = Comparison("each image alone")
        self.in_bucket = Comparison("ours alone, and in a larger bucket")
        self.in_batch = Comparison("ours alone, and in a batch")
        self.on_canvas = Comparison("torchvision's batch, and ours on its canvas")

    def reference(self, pictures: Sequence[np.ndarray]) -> list[Stages]:
        """What torchvision computes for these pictures in one batch."""
        return self._predict(self.model, pictures)

    def add(self, name: str, picture: np.ndarray) -> Outcome:
        """Compares every stage and all detections of a picture; returns what we found in it."""
        (theirs,) = self.reference([picture])
        self._add_stages(theirs, self.feeder.feed(picture, theirs))
        (ours,) = self.ours.predict([picture])
        self.compare(self.alone, name, theirs.outcome, ours)
        return ours

    def compare(
        self, comparison: Comparison, name: str, theirs: Outcome, ours: Outcome, other: str = REFERENCE
    ) -> None:
        """Pairs two outcomes for one picture and explains what is left over."""
        pairs = pairing.pair(theirs, ours)
        sides = self._side(other, theirs), self._side("ours", ours)
        comparison.add(name, pairs, explanation.explain_detections(*sides, pairs))

    def add_batch(self, names: Sequence[str], pictures: Sequence[np.ndarray], bucket: Size) -> None:
        """Compares whether its batch and bucket matter to a picture: not unless the canvas of the batch is given.

        Args:
            names: Of a few pictures,
            pictures: which travel together in one batch; or of one, for which only the bucket is compared.
            bucket: Of the batch; it holds all of them.
        """
        alone = [self.ours.predict([picture])[0] for picture in pictures]
        larger = bucket[0] + 32, bucket[1] + 32
        for name, picture, one in zip(names, pictures, alone, strict=True):
            (padded,) = self.ours.predict([picture], bucket=larger)
            self.compare(self.in_bucket, name, one, padded, "ours alone")
        if len(pictures) == 1:
            return
        for name, one, other in zip(names, alone, self.ours.predict(pictures, bucket), strict=True):
            self.compare(self.in_batch, name, one, other, "ours alone")
        theirs = [stages.outcome for stages in self.reference(pictures)]
        ours = self.ours.predict(pictures, bucket, theirs[0].canvas)
        for name, one, other in zip(names, theirs, ours, strict=True):
            self.compare(self.on_canvas, name, one, other)

    def comparisons(self) -> list[Comparison]:
        """Of whole pictures, those that there were."""
        return [found for found in (self.alone, self.in_bucket, self.in_batch, self.on_canvas) if found.num_images]

    def num_compiled(self) -> int:
        """Programs compiled: whole models, stages by bucket, and the heads."""
        return len(self.ours.compiled) + len(self.feeder.compiled) + bool(self.feeder.compiled)

    def _side(self, name: str, outcome: Outcome) -> Side:
        return Side(name, outcome, self.ours.config, adds_offsets=name == REFERENCE)

    def _add_stages(self, theirs: Stages, fed: Fed) -> None:
        for name, (a, b) in _arrays(theirs, fed.stages).items():
            self.stages[name].add(relative_error(a, b))
        given, ours = theirs.outcome, fed.stages.outcome
        for name, a, b in (
            ("anchors", np.concatenate([*given.anchors.values()]), np.concatenate([*ours.anchors.values()])),
            ("boxes in original pixels", given.original_boxes, ours.original_boxes),
            ("pasted masks", given.masks, ours.masks),
        ):
            self.stages[name].add(float(np.abs(a - b).max(initial=0)))
        self._add_selections(given, given._replace(proposals=ours.proposals), fed.detections)

    def _add_selections(self, given: Outcome, proposed: Outcome, detected: Outcome) -> None:
        reference = self._side(REFERENCE, given)
        side = self._side("ours", proposed)
        error = _common(reference.proposals, side.proposals, given.proposals, proposed.proposals)
        self.stages["proposals"].add(error, explanation.explain_proposals(reference, side))
        side = self._side("ours", detected)
        selections = reference.detections, side.detections
        pairs = pairing.Pairing([], *_alone(*selections), 0.0, 0.0, 0.0)
        error = _common(*selections, given.boxes, detected.boxes)
        self.stages["final boxes"].add(error, explanation.explain_detections(reference, side, pairs))
        error = _common(*selections, given.scores[:, None], detected.scores[:, None])
        self.stages["final scores"].add(error)


def run(
    comparer: Comparer, paths: Sequence[Path], *, title: str, batch_size: int = 2, advance: Callable[[int], None]
) -> Report:
    """Compares on pictures, each alone and in a batch, and reports.

    Args:
        advance: Called with the number of pictures done; each is done twice.

    Raises:
        OSError: A picture cannot be read. The message names it.
    """
    start, ours = time.monotonic(), comparer.ours
    sizes = []
    for path in paths:
        picture = images.read_image(path)
        comparer.add(path.name, picture)
        sizes.append(ours.size(picture))
        advance(1)
    for alike in by_orientation(sizes):
        bucket = ours.bucket([sizes[i] for i in alike])
        for batch in batches(alike, batch_size):
            pictures = [images.read_image(paths[i]) for i in batch]
            comparer.add_batch([paths[i].name for i in batch], pictures, bucket)
            advance(len(batch))
    order = [name for name in TOLERANCES if name not in ORDER] + ORDER
    facts = {
        "images": len(paths),
        "short side": ours.short_side,
        "long side at most": ours.max_long_side,
        "programs compiled": comparer.num_compiled(),
        "seconds": round(time.monotonic() - start),
    }
    return Report(title, [comparer.stages[name] for name in order], comparer.comparisons(), facts)


def by_orientation(sizes: Sequence[Size]) -> list[list[int]]:
    """Indices of the images that are not higher than wide, and of the others, each by size."""
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    wide = [i for i in order if sizes[i][0] <= sizes[i][1]]
    high = [i for i in order if sizes[i][0] > sizes[i][1]]
    return [alike for alike in (wide, high) if alike]


def batches(indices: Sequence[int], size: int) -> list[list[int]]:
    """Batches of at most this many, each with what is far apart in the sequence."""
    count = -(-len(indices) // size)
    return [list(indices[start::count]) for start in range(count)]


def relative_error(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Largest difference, relative to the largest value of theirs."""
    if theirs.shape != ours.shape:
        raise ValueError(f"expected arrays of one shape, got {theirs.shape} and {ours.shape}")
    return float(np.abs(theirs - ours).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-30))


def _arrays(theirs: Stages, ours: Stages) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Theirs and ours of all stages that are compared value by value."""
    pairs = {"preprocessed image": (theirs.image, ours.image)}
    for letter, name in (("C", "backbone"), ("P", "pyramid")):
        a, b = getattr(theirs, name), getattr(ours, name)
        pairs |= {f"{letter}{level}": (a[level], b[level]) for level in a}
    for name in ("objectness", "deltas"):
        a, b = getattr(theirs.outcome, name), getattr(ours.outcome, name)
        pairs |= {f"{name} P{level}": (a[level], b[level]) for level in a}
    return pairs | {
        "pooled for boxes": (theirs.box_features, ours.box_features),
        "class logits": (theirs.outcome.class_logits, ours.outcome.class_logits),
        "class deltas": (theirs.outcome.class_deltas, ours.outcome.class_deltas),
        "pooled for masks": (theirs.mask_features, ours.mask_features),
        "mask logits": (theirs.mask_logits, ours.mask_logits),
    }


def _common(theirs: Selection, ours: Selection, a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference between rows of the candidates that both sides selected."""
    common = [(rank, ours.rank[key]) for key, rank in theirs.rank.items() if key in ours.rank]
    return max((float(np.abs(a[i] - b[j]).max()) for i, j in common), default=0.0)


def _alone(theirs: Selection, ours: Selection) -> tuple[list[int], list[int]]:
    """Ranks of the candidates that only one side selected."""
    return tuple(
        [rank for key, rank in one.rank.items() if key not in other.rank]
        for one, other in ((theirs, ours), (ours, theirs))
    )
