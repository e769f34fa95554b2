"""The three heads: region proposals, boxes, masks. Logits and deltas leave them in float32.

Where a head has norms, ``valid`` says which slots hold a RoI: empty ones must not enter the statistics of a batch.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.modules.layers import (
    NORMS,
    Conv,
    ConvParameters,
    Deconv2x2,
    convolve,
    interleave,
    torch_bias,
    torch_linear,
    zero_beyond,
)
from maskrcnn_jax.modules.materialise import kernel_last, relu, together


class RPNHead(nn.Module):
    """Scores and moves every anchor: 3x3 convolutions shared by all levels, then one 1x1 for each of the two."""

    num_anchors: int  # Per cell.
    num_convs: int
    dtype: str
    divided: bool = False  # Several devices share the rows of the maps.

    def __call__(
        self, pyramid: dict[int, Array], extents: dict[int, Int[Array, "b 2"]]
    ) -> tuple[dict[int, Float[Array, "b _"]], dict[int, Float[Array, "b _ 4"]]]:
        """Returns per level the logits and the deltas of its anchors, by row, column, ratio."""
        convs, predict = self._parameters(next(iter(pyramid.values())).shape[-1])
        logits, deltas = {}, {}
        for level, x in pyramid.items():
            for conv in convs:
                x = relu(convolve(zero_beyond(x, extents[level]), *conv, 1, self.dtype, self.divided))
            y = convolve(x, *predict, 1, self.dtype, self.divided).astype(jnp.float32)
            logits[level] = y[..., : self.num_anchors].reshape(len(x), -1)
            deltas[level] = y[..., self.num_anchors :].reshape(len(x), -1, 4)
        return logits, deltas

    def score_windows(
        self, windows: Float[Array, "b s d d c"], inside: Bool[Array, "b s d d 1"], ratios: Int[Array, "b s"]
    ) -> tuple[Float[Array, "b s"], Float[Array, "b s 4"]]:
        """The same for single anchors.

        Args:
            windows: The cells around that of each, as many on each side as there are convolutions: see `ops.windows`.
            inside: Which of them exist: the map ends with the others.
            ratios: Which anchor of its cell each is.
        """
        convs, predict = self._parameters(windows.shape[-1])
        x, inside = (y.reshape(-1, *y.shape[2:]) for y in (windows, inside))
        for conv in convs:
            x, inside = relu(self._shrink(jnp.where(inside, x, 0), *conv)), inside[:, 1:-1, 1:-1]
        y = convolve(x, *predict, 1, self.dtype, divided=False).astype(jnp.float32)
        logits, deltas = jnp.split(y.reshape(*ratios.shape, -1), [self.num_anchors], axis=-1)
        ratios = jnp.expand_dims(ratios, (2, 3))
        deltas = jnp.take_along_axis(deltas.reshape(*logits.shape, 4), ratios, axis=2).squeeze(2)
        return jnp.take_along_axis(logits, ratios.squeeze(3), axis=2).squeeze(2), deltas

    def _shrink(
        self, x: Float[Array, "n d d i"], kernel: Float[Array, "3 3 i o"], bias: Float[Array, " o"]
    ) -> Float[Array, "n d-2 d-2 o"]:
        """The convolution where a window has all cells for it, as one matrix product."""
        side = x.shape[1] - 2
        if side == 1:  # The whole window; put together of its cells, it would be copied.
            patches = x.reshape(len(x), 1, 1, -1)
        else:
            parts = [x[:, y : y + side, z : z + side] for y in range(3) for z in range(3)]
            patches = jnp.concatenate(parts, axis=-1)
        matrix = kernel.reshape(1, 1, -1, kernel.shape[-1])
        return convolve(patches, matrix, bias, 1, self.dtype, divided=False)

    @nn.compact
    def _parameters(self, features: int) -> tuple[list[tuple[Array, Array]], tuple[Array, Array]]:
        """Kernel and bias of each 3x3 convolution, and of the predictions."""
        small = nn.initializers.normal(0.01)
        convs = [ConvParameters(features, 3, small, name=f"conv{i}")(features) for i in range(self.num_convs)]
        # Of both at once, there is a single gradient by the features, which are larger than all else here.
        classify = ConvParameters(self.num_anchors, 1, small, name="cls_logits")(features)
        regress = ConvParameters(4 * self.num_anchors, 1, small, name="bbox_pred")(features)
        kernel, bias = (jnp.concatenate(pair, axis=-1) for pair in zip(classify, regress, strict=True))
        return convs, (kernel, bias)


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
    return jax.lax.dot_general(*kernel_last(x, kernel), *args, **settings)


class MaskHead(nn.Module):
    """Draws a mask of one class inside each RoI: 3x3 convolutions, upsampling by two, a 1x1 convolution.

    That has an output for every class, of which the others would be let go unseen: none is computed.
    """

    num_classes: int
    num_convs: int
    channels: int
    norm: str  # "none", or a norm after every 3x3 convolution, which then has no bias.
    norm_eps: float
    dtype: str
    drawn_at_once: int | None = None  # RoIs per image that are upsampled together, in training; by default all.

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "b r s s c"], classes: Int[Array, "b r"], valid: Bool[Array, "b r"] | None = None
    ) -> Float[Array, "b r 2*s 2*s"]:
        b, r = pooled.shape[:2]
        x = pooled.reshape(b * r, *pooled.shape[2:])
        x = _convolve(x, valid, self.num_convs, self.channels, self.norm, self.norm_eps, self.dtype)
        x = x.reshape(b, r, *x.shape[1:])
        upsample = Deconv2x2(self.channels, self.dtype, name="deconv")
        weights, bias = self._of_classes(classes)

        def draw(
            _: MaskHead, x: Float[Array, "b g s s c"], weights: Float[Array, "b g f"], bias: Float[Array, "b g"]
        ) -> Float[Array, "b g 2*s 2*s"]:
            b, g, side, _, channels = x.shape
            x = relu(upsample(x.reshape(-1, side, side, channels)))  # [n, s, s, 2, 2, c]
            factors = together((x.reshape(len(x), -1, x.shape[-1]), weights.reshape(len(x), -1)))
            logits = jnp.einsum("npc,nc->np", *factors).astype(jnp.float32)
            logits = interleave(logits.reshape(*x.shape[:5], 1)).reshape(b, g, 2 * side, 2 * side)
            return logits + jnp.expand_dims(bias, (2, 3))

        size = r if self.drawn_at_once is None or self.is_initializing() else self.drawn_at_once
        if r <= size:
            return draw(self, x, weights, bias)
        # Upsampled, RoIs are larger than all else: group by group they are let go, and made again for the gradient.
        draw, groups = nn.remat(draw), []
        for i in range(0, r, size):
            group = x[:, i : i + size]
            if groups:  # Backward, this group comes to its end before that one begins.
                group, groups[-1] = together((group, groups[-1]))
            groups.append(draw(self, group, weights[:, i : i + size], bias[:, i : i + size]))
        return jnp.concatenate(groups, axis=1)

    def _of_classes(self, classes: Int[Array, "b r"]) -> tuple[Float[Array, "b r c"], Float[Array, "b r"]]:
        """The weights and bias of the 1x1 convolution for each of the classes."""
        # torchvision scales by the number of classes: logits of a single class would start around 20.
        init, bias_init = nn.initializers.lecun_normal(), torch_bias(self.channels)
        kernel, bias = ConvParameters(self.num_classes, 1, init, bias_init, name="logits")(self.channels)
        # A product, whose gradient is one too: that of a gather would be added up in any order on a GPU.
        chosen = jax.nn.one_hot(classes, self.num_classes)
        weights = jnp.matmul(chosen, kernel[0, 0].T, precision=jax.lax.Precision.HIGHEST)
        return weights.astype(self.dtype), jnp.matmul(chosen, bias, precision=jax.lax.Precision.HIGHEST)


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
