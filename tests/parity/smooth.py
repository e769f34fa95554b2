"""A ReLU with a continuous gradient in both programs, for precise comparisons of gradients.

An input of a ReLU within rounding of zero may pass in one program only, and the gradient jumps.
This function rises from zero by a parabola, up to `BEND`, and then by a line of slope 1. Like a
ReLU it is zero for negative numbers, so padding stays zero and no maximum is negative.
"""

import jax.numpy as jnp

from maskrcnn_jax.modules import layers
from maskrcnn_jax.parity import reference

# With larger ones the features of deep networks vanish, and the sum of many equal mask losses is
# rounded in one direction.
BEND = 0.1


def use(monkeypatch) -> None:
    """Puts the function in the place of all ReLUs, ours and PyTorch's."""
    torch = reference.torch

    def ours(x, inside):
        low = jnp.clip(x, 0, BEND)
        y = low**2 / (2 * BEND) + jnp.maximum(x - BEND, 0)
        return y if inside is None else jnp.where(inside, y, 0)

    def theirs(x, *_):
        low = x.clamp(0, BEND)
        return low**2 / (2 * BEND) + (x - BEND).clamp(min=0)

    monkeypatch.setattr(layers, "_relu", ours)
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda _, x: theirs(x))
    for name in ("relu", "relu_"):
        monkeypatch.setattr(torch.nn.functional, name, theirs)
