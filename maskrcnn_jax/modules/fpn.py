"""Feature pyramid network (Lin et al., 2017)."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import FPNConfig
from maskrcnn_jax.modules.extents import pyramid_extents, zero_beyond
from maskrcnn_jax.modules.layers import Conv, kaiming_uniform, normed, recomputed
from maskrcnn_jax.modules.norms import NORMS
from maskrcnn_jax.ops import upsampling
from maskrcnn_jax.structures import Pyramid


def build(config: FPNConfig | None, dtype: str, run: Execution) -> nn.Module:
    """The pyramid of a config."""
    return LastLevel() if config is None else FPN(config, dtype, run)


class LastLevel(nn.Module):
    """The coarsest feature map alone, for networks without a pyramid."""

    def __call__(self, features: Pyramid, canvas: Int[Array, "b 2"]) -> Pyramid:
        """The only map; zero beyond its extent."""
        level = max(features)
        return {level: zero_beyond(features[level], pyramid_extents([level], canvas)[level])}


class FPN(nn.Module):
    """Feature maps C2 to C5 to the pyramid P2 to P6, all with the same number of channels.

    Without its top-down path it is the simple feature pyramid of ViTDet (Li et al., 2022).

    P6 is P5 subsampled by two. It has too few rows to shard, so all rows of P5 are gathered.
    """

    config: FPNConfig
    dtype: str = "float32"
    run: Execution = Execution()

    @nn.compact
    def __call__(self, features: Pyramid, canvas: Int[Array, "b 2"]) -> Pyramid:
        """Maps of the pyramid; zero beyond their extents."""
        extent = pyramid_extents((*features, max(features) + 1), canvas)
        pyramid, top_down = {}, None
        merge = recomputed(FPN._merge, "top_down", self.run, static_argnums=(4,))
        for level in sorted(features, reverse=True):
            top_down, pyramid[level] = merge(self, features[level], top_down, extent[level], level)
        top = max(pyramid)
        coarsest = self.run.gather_rows(self.run.gather_rows(pyramid[top])[:, ::2, ::2])
        pyramid[top + 1] = zero_beyond(coarsest, extent[top + 1])
        return dict(sorted(pyramid.items()))

    def _merge(
        self, x: Array, coarser: Array | None, extent: Int[Array, "b 2"], level: int
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """The top-down map of a level, and its map of the pyramid."""
        lateral = self._conv(x, extent, 1, f"lateral{level}")
        if coarser is None or not self.config.top_down:
            top_down = lateral
        else:
            top_down = lateral + upsampling.double(coarser)
        top_down = zero_beyond(top_down, extent)
        return top_down, zero_beyond(self._conv(top_down, extent, 3, f"output{level}"), extent)

    def _conv(
        self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"], side: int, name: str
    ) -> Array:
        """A convolution with a bias or a norm."""
        c = self.config
        conv = Conv(
            c.channels,
            side,
            use_bias=c.norm == "none",
            kernel_init=kaiming_uniform,
            dtype=self.dtype,
            rows_sharded=self.run.row_shards > 1,
            name=name,
        )
        if c.norm == "none":
            return conv(x)
        return normed(conv, NORMS[c.norm](c.norm_eps, self.dtype, name=f"{name}_bn"), x, extent)
