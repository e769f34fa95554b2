"""The RoI heads of Mask R-CNN: what they detect, and what they learn from."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from maskrcnn_jax.diagnostics import box_accuracy, mask_accuracy
from maskrcnn_jax.execution import Execution, Map
from maskrcnn_jax.losses import box_loss, mask_loss
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.modules.box_head import BoxHead
from maskrcnn_jax.modules.layers import as_function
from maskrcnn_jax.modules.mask_head import MaskHead
from maskrcnn_jax.ops.slots import map_chunks
from maskrcnn_jax.structures import Batch, Detections, Proposals, RoITargets, Sums
from maskrcnn_jax.targets import counted_classes, mask_targets, num_mask_samples

Pool = Callable[..., Float[Array, "b r s s c"]]  # Of the boxes [b, r, 4] and ``resolution=s``.


class PlainBoxHead(BoxHead, kw_only=True):
    """The box head of Fast R-CNN."""

    model: ModelConfig
    run: Execution

    @property
    def box_weights(self) -> tuple[float, ...]:
        """Scale of the deltas that `predict` returns."""
        return self.model.roi.box_weights

    def predict(
        self, pool: Pool, proposals: Proposals, sizes: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b p k"], Float[Array, "b p _k 4"], Proposals]:
        """Class logits and deltas of all proposals, and the boxes that the deltas belong to.

        Args:
            pool: Pools features of boxes.
            proposals: The boxes.
            sizes: Height and width of each image, in pixels.
        """
        pooled = pool(proposals.boxes, resolution=self.config.resolution)
        return *self(pooled), proposals

    def pool_for_masks(self, pool: Pool) -> Pool:
        """Pools the features that the mask head reads."""
        return pool

    def learn(
        self, pool: Pool, rois: RoITargets, batch: Batch, keys: Array
    ) -> tuple[Sums, Sums, tuple[RoITargets, ...], Pool]:
        """The losses, diagnostics, the RoIs of each stage, and `pool_for_masks` of positive RoIs.

        Args:
            pool: Pools features of boxes.
            rois: The sampled RoIs.
            batch: The images, and their objects.
            keys: One for each image, for draws of classes and of later stages.
        """
        logits, deltas = self(pool(rois.boxes, resolution=self.config.resolution), rois.valid)
        found = losses_of_boxes(self.model, self.run.per_image, logits, deltas, rois, keys)
        return *found, (rois,), pool


def losses_of_boxes(
    config: ModelConfig, per_image: Map, logits: Array, deltas: Array, rois: RoITargets, keys: Array
) -> tuple[Sums, Sums]:
    """The losses of a box head, and the accuracy of its classes; arguments as in `box_loss`."""
    counted = per_image(partial(counted_classes, config=config))(keys, rois)
    losses = box_loss(logits, deltas, rois, counted, **config.roi.regression)
    return losses, box_accuracy(logits, rois, config.box_head.classifier)


class PlainMaskHead(MaskHead, kw_only=True):
    """The mask head of Mask R-CNN."""

    model: ModelConfig

    def predict(self, pool: Pool, detections: Detections) -> Float[Array, "b d m m"]:
        """Probabilities inside each detected box.

        Args:
            pool: Pools features of boxes.
            detections: The boxes and their classes.
        """
        return probabilities(self, pool, detections, self.config.resolution, self.run.mask_chunk)

    def learn(self, pool: Pool, stages: tuple[RoITargets, ...], batch: Batch) -> tuple[Sums, Sums]:
        """The loss and the diagnostics of the positive RoIs of the first stage.

        Args:
            pool: Pools features of boxes.
            stages: The RoIs of each stage of the box head, positives first.
            batch: The images, and their objects.
        """
        positives, masks = positives_and_masks(self.model, self.run.per_image, stages[0], batch)
        pooled = pool(positives.boxes, resolution=self.config.resolution)
        logits = self(pooled, positives.classes, positives.positive)
        return mask_loss(logits, masks, positives), mask_accuracy(logits, masks, positives)


def probabilities(
    head: nn.Module, pool: Pool, detections: Detections, resolution: int, chunk: int | None
) -> Float[Array, "b d m m"]:
    """The probabilities of a mask head, computed for ``chunk`` detections per image at a time."""
    logits_of = as_function(head)

    def draw(boxes: Float[Array, "b d 4"], classes: Int[Array, "b d"]) -> Array:
        return jax.nn.sigmoid(logits_of(pool(boxes, resolution=resolution), classes))

    if chunk is None or head.is_initializing():
        return draw(detections.boxes, detections.classes)
    return map_chunks(draw, chunk, detections.valid, detections.boxes, detections.classes)


def positives_and_masks(
    config: ModelConfig, per_image: Map, rois: RoITargets, batch: Batch
) -> tuple[RoITargets, Float[Array, "b r m m"]]:
    """The positive RoIs that train the mask head, and their target masks."""
    head = config.mask_head
    assert head is not None, "a model without a mask head learns no masks"
    count = num_mask_samples(config)
    positives = jax.tree.map(lambda x: x[:, :count], rois)  # They come first.
    rule = {"resolution": 2 * head.resolution, "rule": config.roi.mask_targets}
    cut_each = per_image(partial(mask_targets, **rule))
    return positives, cut_each(positives, batch.instances, batch.sizes, batch.canvas)
