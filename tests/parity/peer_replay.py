"""Our side of a training step of Detectron2 or MMDetection: the same draws among our candidates."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import targets
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.ops import anchors, sampling
from maskrcnn_jax.parity import padding, training_replay
from maskrcnn_jax.structures import AnchorTargets, Batch, Proposals, RoITargets

Draw = tuple[np.ndarray, np.ndarray, np.ndarray]  # Indices, positive, valid; each [b, s].


class Drawn(NamedTuple):
    """The anchors and RoIs that the peer drew for one image."""

    labels: np.ndarray  # Of all candidates: 1 positive, 0 negative, -1 neither.
    positive: np.ndarray  # Indices of the drawn candidates.
    negative: np.ndarray


class Samples(NamedTuple):
    """Our targets for the draws of another library."""

    anchors: AnchorTargets
    rois: RoITargets
    masks: Any  # [b, r, m, m]
    anchor_labels: Any  # Of all candidates of ours, [b, n]: 1 positive, 0 negative, -1 neither.
    roi_labels: Any
    # For each later stage of a cascade that draws anew: the draws among our candidates.
    later: tuple[Draw, ...] = ()


class Replay:
    """Makes our targets for the steps of another library.

    The targets come from `targets.anchor_targets` and `targets.roi_targets` themselves; only the
    random choice among their candidates is replaced.

    Args:
        config: The model.
        bucket: Height and width of the batches.
        num_instances: Slots of the batches.
        jit: Compiles functions.
        canvas: Height and width of the canvas of all images; by default those of the bucket.
    """

    def __init__(
        self,
        config: ModelConfig,
        bucket: tuple[int, int],
        num_instances: int,
        jit: Callable[..., Any] = jax.jit,
        canvas: tuple[int, int] | None = None,
    ):
        self.config, self.num_instances = config, num_instances
        self.anchor_places = training_replay.anchor_places(bucket, canvas or bucket, config)
        shapes = anchors.map_shapes(bucket, config.levels)
        of_image = partial(_samples, config=config, shapes=shapes)
        self._samples = jit(jax.vmap(of_image))

    def samples(self, batch: Batch, step: Any) -> Samples:
        """Our targets for a `training_peers.PeerStep`."""
        count = self.config.rpn.num_proposals
        boxes = _stacked(step.proposals, count)
        valid = np.array([np.arange(count) < len(x) for x in step.proposals])
        drawn_anchors = _draw(step.anchors, self.config.rpn.num_samples, self._anchor_place)
        first = step.rois[: len(step.proposals)]
        drawn_rois = _draw(first, self.config.roi.num_samples, self._roi_places(step))
        given = drawn_anchors, Proposals(boxes, valid), drawn_rois
        found = self._samples(batch.instances, batch.canvas, batch.sizes, *given)
        return found._replace(later=tuple(self._later_draws(step)))

    def _later_draws(self, step: Any) -> Iterator[Draw]:
        """The draws of the later stages, whose candidates are the boxes of the stage before."""
        num_images = len(step.proposals)
        stages = [step.rois[i : i + num_images] for i in range(0, len(step.rois), num_images)]
        for before, drawn in itertools.pairwise(stages):

            def place(image: int, indices: np.ndarray, before: Any = before) -> np.ndarray:
                was = np.concatenate([before[image].positive, before[image].negative])
                # The objects stand in front, and none of them is refined.
                num_objects = len(step.rois[image].labels) - len(step.proposals[image])
                refined = np.flatnonzero(was >= num_objects)
                slots = np.concatenate([np.arange(num_objects), self.num_instances + refined])
                return slots[indices]

            yield _draw(drawn, self.config.roi.num_samples, place)

    def num_wrong(self, samples: Samples, step: Any) -> int:
        """The number of candidates that have another label in the other library."""
        wrong = 0
        for i, (theirs, rois) in enumerate(zip(step.anchors, step.rois, strict=False)):
            ours = np.asarray(samples.anchor_labels[i])[self.anchor_places]
            wrong += np.count_nonzero(ours != theirs.labels)
            places = self._roi_places(step)(i, np.arange(len(rois.labels)))
            wrong += np.count_nonzero(np.asarray(samples.roi_labels[i])[places] != rois.labels)
        return wrong

    def _anchor_place(self, image: int, indices: np.ndarray) -> np.ndarray:
        return self.anchor_places[indices]

    def _roi_places(self, step: Any) -> Callable[[int, np.ndarray], np.ndarray]:
        """Maps the candidates of the other library to ours, which have empty slots between."""
        is_first = self.config.roi.ground_truth == "first"
        slots = self.num_instances if is_first else self.config.rpn.num_proposals

        def place(image: int, indices: np.ndarray) -> np.ndarray:
            num_proposals = len(step.proposals[image])
            num_candidates = len(step.rois[image].labels)
            in_front = num_candidates - num_proposals if is_first else num_proposals
            return np.where(indices < in_front, indices, indices - in_front + slots)

        return place


def _samples(
    instances: Any,
    canvas: Any,
    size: Any,
    drawn_anchors: Draw,
    proposals: Proposals,
    drawn_rois: Draw,
    *,
    config: ModelConfig,
    shapes: dict[int, tuple[int, int]],
) -> Samples:
    key = jax.random.key(0)
    with _drawing(drawn_anchors) as anchor_labels:
        anchor_targets = targets.anchor_targets(
            key, instances, canvas, shapes=shapes, config=config.rpn
        )
    with _drawing(drawn_rois) as roi_labels:
        rois = targets.roi_targets(key, proposals, instances, config=config.roi)
    positives = jax.tree.map(lambda x: x[: targets.num_mask_samples(config)], rois)
    rule = {"resolution": 2 * config.mask_head.resolution, "rule": config.roi.mask_targets}
    masks = targets.mask_targets(positives, instances, size, canvas, **rule)
    return Samples(anchor_targets, rois, masks, *anchor_labels, *roi_labels)


def replaying(samples: Samples) -> Callable[..., Any]:
    """An `Execution.per_image` that takes the given samples, and draws those of later stages."""
    anchors, rois, masks, labels, _, later = samples
    given = training_replay.Samples(anchors, rois, labels, masks)
    first, draws = training_replay.replaying(given), iter([None, *later])

    def per_image(stage: Callable[..., Any]) -> Callable[..., Any]:
        if getattr(stage, "func", stage) is not targets.roi_targets:
            return first(stage)
        drawn = next(draws)
        if drawn is None:
            return first(stage)

        def draw(draw_of_image: Draw, *arguments: Any) -> Any:
            with _drawing(draw_of_image):
                return stage(*arguments)

        return lambda *arguments: jax.vmap(draw)(drawn, *arguments)

    return per_image


@contextlib.contextmanager
def _drawing(drawn: Draw) -> Iterator[list[Any]]:
    """Replaces the random choice by given indices; the list gets the labels of all candidates."""
    labels: list[Any] = []

    def sample(priority: Any, positive: Any, negative: Any, **_: Any) -> Draw:
        labels.append(jnp.where(positive, 1, jnp.where(negative, 0, -1)))
        return drawn

    with mock.patch.object(sampling, "sample", sample):
        yield labels


def _draw(drawn: Sequence[Any], num_slots: int, place: Callable[..., np.ndarray]) -> Draw:
    """Fills slots with the drawn candidates, positives first."""
    found = []
    for image, each in enumerate(drawn):
        found.append(place(image, np.concatenate([each.positive, each.negative])))
    slots = np.arange(num_slots)
    positive = np.array([slots < len(each.positive) for each in drawn])
    valid = np.array([slots < len(indices) for indices in found])
    return _stacked(found, num_slots).astype(np.int32), positive, valid


def _stacked(arrays: Sequence[np.ndarray], count: int) -> np.ndarray:
    return np.concatenate([padding.slots(np.asarray(array), count) for array in arrays])
