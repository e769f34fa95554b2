"""Region proposal network (section 3.1 of Faster R-CNN): objectness and deltas of every anchor."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import RPNConfig
from maskrcnn_jax.modules.extents import pyramid_extents
from maskrcnn_jax.modules.layers import ConvParameters, add_bias, relu
from maskrcnn_jax.ops.convolution import conv
from maskrcnn_jax.ops.windows import windows_at
from maskrcnn_jax.structures import AnchorScores, Pyramid
from maskrcnn_jax.xla.barriers import barrier


class RPN(nn.Module):
    """3x3 convolutions shared by all levels, then a 1x1 convolution for logits and one for deltas.

    Logits and deltas are float32.
    """

    config: RPNConfig
    dtype: str = "float32"
    run: Execution = Execution()
    num_anchors: int = 3  # Per cell.

    def __call__(self, pyramid: Pyramid, canvas: Int[Array, "b 2"]) -> AnchorScores:
        """Scores all anchors: per level ``[b, n]`` logits and ``[b, n, 4]`` deltas.

        Maps must be zero beyond their extents. The anchors of a level are ordered by size, ratio,
        row, column.
        """
        convs, predict = self._parameters(next(iter(pyramid.values())).shape[-1])
        extent = pyramid_extents(pyramid, canvas)
        logits, deltas = {}, {}
        for level, x in pyramid.items():
            for i, parameters in enumerate(convs, start=1):
                # A 1x1 convolution reads the last map: it may have any numbers beyond the extent.
                end = extent[level] if i < len(convs) else None
                x = relu(self._conv(x, *parameters), end)
            y = self.run.gather_rows(self._conv(x, *predict).astype(jnp.float32))
            logits[level], deltas[level] = self._by_anchor(y)
        return AnchorScores(logits, deltas)

    def learn(
        self, pyramid: Pyramid, canvas: Int[Array, "b 2"], indices: Int[Array, "b s"]
    ) -> tuple[Pyramid, AnchorScores, tuple[Float[Array, "b s"], Float[Array, "b s 4"]]]:
        """Scores all anchors, for the proposals, and the sampled ones, for the loss.

        Args:
            pyramid: Feature maps P2 to P6.
            canvas: Height and width of each padded image, in pixels.
            indices: Indices of the sampled anchors among those of all levels, the finest first.

        Returns:
            The pyramid for the later stages, the scores of all anchors, and the logits and deltas
            of the sampled anchors. Only the sampled logits and deltas need a gradient, because none
            flows through proposals.
        """
        scores = self(pyramid, canvas)
        if self.run.rpn_windows:
            sampled = self._score_windows(pyramid, canvas, indices)
            # The barrier bounds live ranges: the windows are scored before any later stage reads
            # the pyramid, and their cotangents are computed after those of the later stages.
            pyramid, sampled = barrier((pyramid, sampled))
            return pyramid, jax.lax.stop_gradient(scores), sampled
        logits, deltas = (jnp.concatenate(list(levels.values()), axis=1) for levels in scores)
        take = jax.vmap(lambda x, indices: x[indices])
        return pyramid, scores, (take(logits, indices), take(deltas, indices))

    def _score_windows(
        self, pyramid: Pyramid, canvas: Int[Array, "b 2"], indices: Int[Array, "b s"]
    ) -> tuple[Float[Array, "b s"], Float[Array, "b s 4"]]:
        """Scores some anchors from windows of cells around them.

        All other anchors have a zero cotangent, and the gradient of whole maps would mostly
        multiply these zeros.
        """
        windows_one = partial(
            windows_at, num_anchors=self.num_anchors, radius=self.config.num_convs
        )
        extent = pyramid_extents(pyramid, canvas)
        windows, inside, anchors = self.run.per_image(windows_one)(pyramid, extent, indices)
        x, inside = (y.reshape(-1, *y.shape[2:]) for y in (windows, inside))
        convs, predict = self._parameters(x.shape[-1])
        for parameters in convs:
            x = relu(self._valid_conv(jnp.where(inside, x, 0), *parameters))
            inside = inside[:, 1:-1, 1:-1]
        y = self._conv(x, *predict).astype(jnp.float32).reshape(*indices.shape, -1)
        logits, deltas = y[..., : self.num_anchors], y[..., self.num_anchors :]
        deltas, anchors = deltas.reshape(*logits.shape, 4), jnp.expand_dims(anchors, (2, 3))
        deltas = jnp.take_along_axis(deltas, anchors, axis=2).squeeze(2)
        return jnp.take_along_axis(logits, anchors.squeeze(3), axis=2).squeeze(2), deltas

    def _by_anchor(
        self, y: Float[Array, "b h w k"]
    ) -> tuple[Float[Array, "b n"], Float[Array, "b n 4"]]:
        """The logits and deltas of a level, from those of each cell."""
        b, h, w, _ = y.shape
        y = jnp.moveaxis(y, -1, 1)
        logits, deltas = y[:, : self.num_anchors], y[:, self.num_anchors :]
        deltas = jnp.moveaxis(deltas.reshape(b, self.num_anchors, 4, h, w), 2, -1)
        return logits.reshape(b, -1), deltas.reshape(b, -1, 4)

    def _conv(self, x: Array, kernel: Array, bias: Array) -> Array:
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return add_bias(conv(x, kernel, 1, rows_sharded=self.run.row_shards > 1), bias)

    def _valid_conv(
        self,
        x: Float[Array, "n d d i"],
        kernel: Float[Array, "3 3 i o"],
        bias: Float[Array, " o"],
    ) -> Float[Array, "n d-2 d-2 o"]:
        """The 3x3 convolution without padding of each window, as one matrix product."""
        side = x.shape[1] - 2
        # For one output cell, a reshape copies nothing, unlike a concatenation of slices.
        if side == 1:
            patches = x.reshape(len(x), 1, 1, -1)
        else:
            shifted = [x[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
            patches = jnp.concatenate(shifted, axis=-1)
        return self._conv(patches, kernel.reshape(1, 1, -1, kernel.shape[-1]), bias)

    @nn.compact
    def _parameters(self, features: int) -> tuple[list[tuple[Array, Array]], tuple[Array, Array]]:
        """Kernel and bias of each 3x3 convolution, and of both predictions, concatenated.

        One product for both predictions gives the features a single cotangent.
        """
        small = nn.initializers.normal(0.01)
        convs = [
            ConvParameters(features, 3, small, name=f"conv{i}")(features)
            for i in range(self.config.num_convs)
        ]
        logits = ConvParameters(self.num_anchors, 1, small, name="cls_logits")(features)
        deltas = ConvParameters(4 * self.num_anchors, 1, small, name="bbox_pred")(features)
        kernel, bias = (jnp.concatenate(pair, axis=-1) for pair in zip(logits, deltas, strict=True))
        return convs, (kernel, bias)
