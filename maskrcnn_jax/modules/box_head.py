"""Box head (section 2 of Fast R-CNN): the class of each RoI, and a refined box for each class.

If the config says so, there is one box for all classes.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maskrcnn_jax.model_config import BoxHeadConfig
from maskrcnn_jax.modules.layers import Linear, relu, roi_convs


class BoxHead(nn.Module):
    """3x3 convolutions, then fully connected layers. Logits and deltas leave it in float32."""

    config: BoxHeadConfig
    num_classes: int  # Background included.
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "b r s s c"], valid: Bool[Array, "b r"] | None = None
    ) -> tuple[Float[Array, "b r k"], Float[Array, "b r _k 4"]]:
        """Class logits of each RoI, and box deltas for each class or for all of them.

        Args:
            pooled: Features of each RoI.
            valid: Slots that hold an RoI; norms leave the others out of their statistics.
        """
        b, r = pooled.shape[:2]
        x = roi_convs(pooled, self.config, self.dtype, valid)
        # With more than two axes, the gradient by the weights would be slow; see `matmul`.
        x = x.reshape(b * r, -1)
        for i in range(self.config.num_layers):
            x = relu(Linear(self.config.features, self.dtype, name=f"fc{6 + i}")(x))
        logits = Linear(self.num_classes, self.dtype, name="cls_score")(x).astype(jnp.float32)
        num_boxes = 1 if self.config.class_agnostic else self.num_classes
        deltas = Linear(4 * num_boxes, self.dtype, name="bbox_pred")(x).astype(jnp.float32)
        return logits.reshape(b, r, -1), deltas.reshape(b, r, num_boxes, 4)
