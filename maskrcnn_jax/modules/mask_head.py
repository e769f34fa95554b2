"""Mask head (section 3 and figure 4, right, of Mask R-CNN): the mask of one class in each RoI."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import MaskHeadConfig
from maskrcnn_jax.modules.layers import (
    ConvParameters,
    Deconv2x2,
    as_function,
    interleave,
    relu,
    roi_convs,
    torch_bias,
)
from maskrcnn_jax.ops.slots import map_chunks


class MaskHead(nn.Module):
    """3x3 convolutions, upsampling by two, a 1x1 convolution.

    Only the logits of the RoI's own class are computed; the loss and the detections need no other.
    If the config says so, there is one mask for all classes.
    Logits are float32.
    """

    config: MaskHeadConfig
    num_classes: int  # Background included.
    dtype: str = "float32"
    run: Execution = Execution()

    @nn.compact
    def __call__(
        self,
        pooled: Float[Array, "b r s s c"],
        classes: Int[Array, "b r"],
        valid: Bool[Array, "b r"] | None = None,
    ) -> Float[Array, "b r 2*s 2*s"]:
        """Mask logits of each RoI.

        Args:
            pooled: Features of each RoI.
            classes: The class of each RoI.
            valid: Slots that hold an RoI; norms leave the others out of their statistics, and
                logits of the others are meaningless.
        """
        x = roi_convs(pooled, self.config, self.dtype, valid)
        x = x.reshape(*classes.shape, *x.shape[1:])
        kernel, bias = self._class_parameters(classes)
        upsample = as_function(Deconv2x2(self.config.channels, self.dtype, name="deconv"))

        def draw(
            x: Float[Array, "b r s s c"], kernel: Float[Array, "b r f"], bias: Float[Array, "b r"]
        ) -> Float[Array, "b r 2*s 2*s"]:
            b, r, side = x.shape[:3]
            kernel = kernel.reshape(b * r, -1)
            maps = [
                jnp.einsum("nhwc,nc->nhw", relu(y), kernel).astype(jnp.float32)
                for y in upsample(x.reshape(b * r, side, side, -1))
            ]
            logits = interleave(maps).reshape(b, r, 2 * side, 2 * side)
            return logits + jnp.expand_dims(bias, (2, 3))

        chunk = self.run.upsample_chunk or classes.shape[1]
        if classes.shape[1] <= chunk or self.is_initializing():
            return draw(x, kernel, bias)
        used = jnp.ones(classes.shape, bool) if valid is None else valid
        return map_chunks(jax.checkpoint(draw), chunk, used, x, kernel, bias)

    def _class_parameters(
        self, classes: Int[Array, "b r"]
    ) -> tuple[Float[Array, "b r f"], Float[Array, "b r"]]:
        """The weights and bias of the 1x1 convolution for the class of each RoI."""
        # torchvision scales the initial weights by the number of classes: with a single class,
        # logits would start at 20.
        init, bias_init = nn.initializers.lecun_normal(), torch_bias(self.config.channels)
        if self.config.class_agnostic:
            num_masks, classes = 1, jnp.zeros_like(classes)
        else:
            num_masks = self.num_classes
        parameters = ConvParameters(num_masks, 1, init, bias_init, name="logits")
        kernel, bias = parameters(self.config.channels)
        # A GPU adds the gradient of a gather in any order, that of a matrix product always in one.
        one_hot = jax.nn.one_hot(classes, num_masks)
        weights = jnp.matmul(one_hot, kernel[0, 0].T, precision=jax.lax.Precision.HIGHEST)
        biases = jnp.matmul(one_hot, bias, precision=jax.lax.Precision.HIGHEST)
        return weights.astype(self.dtype), biases
