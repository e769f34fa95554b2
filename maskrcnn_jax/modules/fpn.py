"""Feature pyramid network (Lin et al., 2017)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.modules.layers import NORMS, Conv, kaiming_uniform
from maskrcnn_jax.modules.materialise import materialise


class FPN(nn.Module):
    """Feature maps C2 to C5 to the pyramid P2 to P6, all of one width; P6 is P5 subsampled by two.

    P6 has so few rows that they cannot be divided among devices: ``whole``, if given, brings those of P5 together.
    """

    features: int
    norm: str  # "none", or a norm after every convolution, which then has no bias.
    norm_eps: float
    dtype: str
    whole: Callable[[Array], Array] = lambda x: x
    remake: bool = False  # Make sums of lateral and upsampled maps again for the gradient, instead of keeping them.
    divided: bool = False  # Several devices share the rows of the maps.

    @nn.compact
    def __call__(self, features: dict[int, Array], extents: dict[int, Int[Array, "b 2"]]) -> dict[int, Array]:
        top_down = None
        pyramid = {}
        for level in sorted(features, reverse=True):
            merge = nn.remat(FPN._merge, static_argnums=(4,)) if self.remake else FPN._merge
            top_down, pyramid[level] = merge(self, features[level], top_down, extents[level], level)
        top = max(pyramid)
        pyramid[top + 1] = self.whole(self.whole(pyramid[top])[:, ::2, ::2])
        return dict(sorted(pyramid.items()))

    def _merge(
        self, x: Float[Array, "b h w i"], coarser: Array | None, extent: Int[Array, "b 2"], level: int
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """The top-down map of a level, and the one of the pyramid."""
        lateral = self._conv(x, extent, 1, f"lateral{level}")
        top_down = lateral if coarser is None else materialise(lateral + _upsample(coarser))
        return top_down, self._conv(top_down, extent, 3, f"output{level}")

    def _conv(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"], side: int, name: str) -> Array:
        plain = self.norm == "none"
        conv = partial(Conv, self.features, side, kernel_init=kaiming_uniform, dtype=self.dtype, divided=self.divided)
        y = conv(use_bias=plain, name=name)(x, extent)
        return y if plain else NORMS[self.norm](self.norm_eps, self.dtype, name=f"{name}_bn")(y, extent)


def _upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats every cell twice per axis."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x.reshape(b, h, 1, w, 1, c), (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
