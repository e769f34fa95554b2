"""The three heads: region proposals, boxes, masks. Logits and deltas leave them in float32."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.modules.layers import NORMS, Conv, Deconv2x2, torch_bias, torch_linear


class RPNHead(nn.Module):
    """Scores and moves every anchor: a 3x3 convolution shared by all levels, then one 1x1 for each of the two."""

    num_anchors: int  # Per cell.
    dtype: str

    @nn.compact
    def __call__(
        self, pyramid: dict[int, Array], extents: dict[int, Int[Array, "b 2"]]
    ) -> tuple[dict[int, Float[Array, "b _"]], dict[int, Float[Array, "b _ 4"]]]:
        """Returns per level the logits and the deltas of its anchors, by row, column, ratio."""
        small = nn.initializers.normal(0.01)
        features = next(iter(pyramid.values())).shape[-1]
        conv = Conv(features, 3, kernel_init=small, dtype=self.dtype, name="conv")
        classify = Conv(self.num_anchors, 1, kernel_init=small, dtype=self.dtype, name="cls_logits")
        regress = Conv(4 * self.num_anchors, 1, kernel_init=small, dtype=self.dtype, name="bbox_pred")
        logits, deltas = {}, {}
        for level, x in pyramid.items():
            hidden = nn.relu(conv(x, extents[level]))
            logits[level] = classify(hidden).astype(jnp.float32).reshape(len(x), -1)
            deltas[level] = regress(hidden).astype(jnp.float32).reshape(len(x), -1, 4)
        return logits, deltas


class BoxHead(nn.Module):
    """Classifies RoIs and refines their boxes for every class: two fully connected layers, then one for each task."""

    num_classes: int
    features: int
    dtype: str

    @nn.compact
    def __call__(self, pooled: Float[Array, "b r s s c"]) -> tuple[Float[Array, "b r k"], Float[Array, "b r k 4"]]:
        x = pooled.reshape(*pooled.shape[:2], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(self._linear(x, self.features, name))
        logits = self._linear(x, self.num_classes, "cls_score").astype(jnp.float32)
        deltas = self._linear(x, 4 * self.num_classes, "bbox_pred").astype(jnp.float32)
        return logits, deltas.reshape(*deltas.shape[:2], self.num_classes, 4)

    def _linear(self, x: Array, features: int, name: str) -> Array:
        bias = torch_bias(x.shape[-1])
        return nn.Dense(features, dtype=self.dtype, kernel_init=torch_linear, bias_init=bias, name=name)(x)


class MaskHead(nn.Module):
    """Draws a mask per class inside each RoI: 3x3 convolutions, upsampling by two, a 1x1 convolution."""

    num_classes: int
    features: int
    num_convs: int
    norm: str  # "none", or a norm after every 3x3 convolution, which then has no bias.
    norm_eps: float
    dtype: str

    @nn.compact
    def __call__(self, pooled: Float[Array, "b r s s c"]) -> Float[Array, "b r 2*s 2*s k"]:
        b, r = pooled.shape[:2]
        x = pooled.reshape(b * r, *pooled.shape[2:])
        plain = self.norm == "none"
        conv = partial(Conv, self.features, 3, use_bias=plain, dtype=self.dtype)
        for i in range(self.num_convs):
            x = conv(name=f"conv{i}")(x)
            x = x if plain else NORMS[self.norm](self.norm_eps, self.dtype, name=f"bn{i}")(x)
            x = nn.relu(x)
        x = nn.relu(Deconv2x2(self.features, self.dtype, name="deconv")(x))
        # torchvision scales by the number of classes: logits of a single class would start around 20.
        init, bias = nn.initializers.lecun_normal(), torch_bias(self.features)
        x = Conv(self.num_classes, 1, kernel_init=init, bias_init=bias, dtype=self.dtype, name="logits")(x)
        return x.astype(jnp.float32).reshape(b, r, *x.shape[1:])
