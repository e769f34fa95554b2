"""The three heads: region proposals, boxes, masks. Logits and deltas leave them in float32.

Where a head has norms, ``valid`` says which slots hold a RoI: empty ones must not enter the statistics of a batch.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.modules.layers import (
    NORMS,
    Conv,
    Conv1x1Parameters,
    Deconv2x2,
    convolve,
    interleave,
    torch_bias,
    torch_linear,
)
from maskrcnn_jax.modules.materialise import relu, together


class RPNHead(nn.Module):
    """Scores and moves every anchor: 3x3 convolutions shared by all levels, then one 1x1 for each of the two."""

    num_anchors: int  # Per cell.
    num_convs: int
    dtype: str
    divided: bool = False  # Several devices share the rows of the maps.

    @nn.compact
    def __call__(
        self, pyramid: dict[int, Array], extents: dict[int, Int[Array, "b 2"]]
    ) -> tuple[dict[int, Float[Array, "b _"]], dict[int, Float[Array, "b _ 4"]]]:
        """Returns per level the logits and the deltas of its anchors, by row, column, ratio."""
        small = nn.initializers.normal(0.01)
        features = next(iter(pyramid.values())).shape[-1]
        conv = partial(Conv, features, 3, kernel_init=small, dtype=self.dtype, divided=self.divided)
        convs = [conv(name=f"conv{i}") for i in range(self.num_convs)]
        # Of both at once, there is a single gradient by the features, which are larger than all else here.
        classify = Conv1x1Parameters(self.num_anchors, small, name="cls_logits")(features)
        regress = Conv1x1Parameters(4 * self.num_anchors, small, name="bbox_pred")(features)
        kernel, bias = (jnp.concatenate(pair, axis=-1) for pair in zip(classify, regress, strict=True))
        logits, deltas = {}, {}
        for level, x in pyramid.items():
            for layer in convs:
                x = relu(layer(x, extents[level]))
            y = convolve(x, kernel, bias, 1, self.dtype, self.divided).astype(jnp.float32)
            logits[level] = y[..., : self.num_anchors].reshape(len(x), -1)
            deltas[level] = y[..., self.num_anchors :].reshape(len(x), -1, 4)
        return logits, deltas


class BoxHead(nn.Module):
    """Classifies RoIs and refines their boxes for every class: 3x3 convolutions, then fully connected layers."""

    num_classes: int
    num_convs: int
    channels: int
    norm: str  # "none", or a norm after every 3x3 convolution, which then has no bias.
    norm_eps: float
    num_layers: int
    features: int
    dtype: str

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "b r s s c"], valid: Bool[Array, "b r"] | None = None
    ) -> tuple[Float[Array, "b r k"], Float[Array, "b r k 4"]]:
        b, r = pooled.shape[:2]
        x = pooled.reshape(b * r, *pooled.shape[2:])
        x = _convolve(x, valid, self.num_convs, self.channels, self.norm, self.norm_eps, self.dtype)
        x = x.reshape(b * r, -1)  # Of more axes, gradients by the weights would be slow: see `matmul`.
        for i in range(self.num_layers):
            x = relu(self._linear(x, self.features, f"fc{6 + i}"))
        logits = self._linear(x, self.num_classes, "cls_score").astype(jnp.float32)
        deltas = self._linear(x, 4 * self.num_classes, "bbox_pred").astype(jnp.float32)
        return logits.reshape(b, r, -1), deltas.reshape(b, r, self.num_classes, 4)

    def _linear(self, x: Array, features: int, name: str) -> Array:
        bias = torch_bias(x.shape[-1])
        init = {"kernel_init": torch_linear, "bias_init": bias}
        return nn.Dense(features, dtype=self.dtype, **init, dot_general=_dot_general, name=name)(x)


def _dot_general(x: Array, kernel: Array, *args: Any, **settings: Any) -> Array:
    return jax.lax.dot_general(*together((x, kernel)), *args, **settings)


class MaskHead(nn.Module):
    """Draws a mask per class inside each RoI: 3x3 convolutions, upsampling by two, a 1x1 convolution."""

    num_classes: int
    num_convs: int
    channels: int
    norm: str  # "none", or a norm after every 3x3 convolution, which then has no bias.
    norm_eps: float
    dtype: str
    drawn_at_once: int | None = None  # RoIs per image that are upsampled together, in training; by default all.

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "b r s s c"], valid: Bool[Array, "b r"] | None = None
    ) -> Float[Array, "b r 2*s 2*s k"]:
        b, r = pooled.shape[:2]
        x = pooled.reshape(b * r, *pooled.shape[2:])
        x = _convolve(x, valid, self.num_convs, self.channels, self.norm, self.norm_eps, self.dtype)
        x = x.reshape(b, r, *x.shape[1:])
        upsample = Deconv2x2(self.channels, self.dtype, name="deconv")
        # torchvision scales by the number of classes: logits of a single class would start around 20.
        init, bias = nn.initializers.lecun_normal(), torch_bias(self.channels)
        classify = Conv(self.num_classes, 1, kernel_init=init, bias_init=bias, dtype=self.dtype, name="logits")

        def draw(head: MaskHead, group: Float[Array, "b g s s c"]) -> Float[Array, "b g 2*s 2*s k"]:
            x = relu(upsample(group.reshape(-1, *group.shape[2:])))  # [n, s, s, 2, 2, c]
            # Cell by cell, so their order does not matter: that of the logits is mended, of which there are fewer.
            logits = classify(x.reshape(*x.shape[:2], -1, head.channels)).astype(jnp.float32)
            logits = interleave(logits.reshape(*x.shape[:5], -1))
            return logits.reshape(*group.shape[:2], *logits.shape[1:])

        size = r if self.drawn_at_once is None or self.is_initializing() else self.drawn_at_once
        if r <= size:
            return draw(self, x)
        # Upsampled, RoIs are larger than all else: group by group they are let go, and made again for the gradient.
        draw, groups = nn.remat(draw), []
        for i in range(0, r, size):
            group = x[:, i : i + size]
            if groups:  # Backward, this group comes to its end before that one begins.
                group, groups[-1] = together((group, groups[-1]))
            groups.append(draw(self, group))
        return jnp.concatenate(groups, axis=1)


def _convolve(
    x: Float[Array, "n s s c"],
    valid: Bool[Array, "b r"] | None,
    num_convs: int,
    channels: int,
    norm: str,
    norm_eps: float,
    dtype: str,
) -> Float[Array, "n s s f"]:
    """The 3x3 convolutions of a head, named ``conv0``, ``bn0``, ``conv1``, ... in the module that calls."""
    extent = None if valid is None else jnp.where(valid.reshape(-1, 1), jnp.array(x.shape[1:3]).reshape(1, 2), 0)
    for i in range(num_convs):
        x = Conv(channels, 3, use_bias=norm == "none", dtype=dtype, name=f"conv{i}")(x)
        x = x if norm == "none" else NORMS[norm](norm_eps, dtype, name=f"bn{i}")(x, extent)
        x = relu(x)
    return x
