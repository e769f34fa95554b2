"""The box head of C4 networks: the last stage of the ResNet (appendix A of the ResNet paper)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.modules.layers import Linear, as_function
from maskrcnn_jax.modules.resnet import LastStage
from maskrcnn_jax.roi_heads.plain import Pool, losses_of_boxes
from maskrcnn_jax.structures import Batch, Proposals, RoITargets, Sums


class C4BoxHead(nn.Module):
    """C5 of each RoI, its mean, and a linear layer each for classes and boxes.

    The mask head reads C5 of the RoIs too. Methods as in `plain.PlainBoxHead`.
    """

    model: ModelConfig
    run: Execution

    def setup(self) -> None:
        c = self.model
        self.res5 = LastStage(c.backbone, c.dtype, self.run)
        self.cls_score = Linear(c.num_classes, c.dtype)
        num_boxes = 1 if c.box_head.class_agnostic else c.num_classes
        self.bbox_pred = Linear(4 * num_boxes, c.dtype)

    @property
    def box_weights(self) -> tuple[float, ...]:
        """Scale of the deltas that `predict` returns."""
        return self.model.roi.box_weights

    def predict(
        self, pool: Pool, proposals: Proposals, sizes: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b p k"], Float[Array, "b p _k 4"], Proposals]:
        """Class logits and deltas of all proposals, and the boxes that the deltas belong to."""
        features = self.pool_for_masks(pool)(proposals.boxes)
        return *self._scores(features), proposals

    def pool_for_masks(self, pool: Pool) -> Pool:
        """Pools features, and computes C5 of them."""
        res5 = as_function(self.res5)

        def pool_c5(boxes: Float[Array, "b r 4"], resolution: int = 0) -> Array:
            pooled = pool(boxes, resolution=self.model.box_head.resolution)
            x = res5(pooled.reshape(-1, *pooled.shape[2:]))
            return x.reshape(*boxes.shape[:2], *x.shape[1:])

        return pool_c5

    def learn(
        self, pool: Pool, rois: RoITargets, batch: Batch, keys: Array
    ) -> tuple[Sums, Sums, tuple[RoITargets, ...], Pool]:
        """The losses, diagnostics, the RoIs, and the features of the first ones for masks."""
        features = self.pool_for_masks(pool)(rois.boxes)
        logits, deltas = self._scores(features)
        found = losses_of_boxes(self.model, self.run.per_image, logits, deltas, rois, keys)

        def pool_positives(boxes: Float[Array, "b r 4"], resolution: int) -> Array:
            return features[:, : boxes.shape[1]]  # Positives come first.

        return *found, (rois,), pool_positives

    def _scores(
        self, features: Float[Array, "b r s s c"]
    ) -> tuple[Float[Array, "b r k"], Float[Array, "b r _k 4"]]:
        b, r = features.shape[:2]
        x = features.mean((2, 3), dtype=jnp.float32).reshape(b * r, -1)
        logits, deltas = (
            layer(x).astype(jnp.float32) for layer in (self.cls_score, self.bbox_pred)
        )
        return logits.reshape(b, r, -1), deltas.reshape(b, r, -1, 4)
