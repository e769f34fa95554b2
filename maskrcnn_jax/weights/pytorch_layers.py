"""Table entries of PyTorch's layers: the names of their parameters and the order of their axes.

``name`` is the name of a layer in the file and ``path`` that of our module.
"""

from collections.abc import Iterator
from math import prod

from maskrcnn_jax.weights.layout import Entry, Path, Shape, entry

# PyTorch's name, our collection for a trained norm, our name.
BATCH_NORM = (
    ("weight", "params", "scale"),
    ("bias", "params", "bias"),
    ("running_mean", "batch_stats", "mean"),
    ("running_var", "batch_stats", "var"),
)


def convolution(
    name: str, path: Path, outputs: int, inputs: int, side: int, *, bias: bool = True
) -> Iterator[Entry]:
    """Yields the entries of a convolution with a square kernel; PyTorch's kernels are OIHW."""
    kernel = "params", *path, "kernel"
    yield entry(f"{name}.weight", kernel, (outputs, inputs, side, side), (2, 3, 1, 0))
    if bias:
        yield entry(f"{name}.bias", ("params", *path, "bias"), (outputs,), (0,))


def transposed_convolution(
    name: str, path: Path, inputs: int, outputs: int, side: int
) -> Iterator[Entry]:
    """Yields the entries of a transposed convolution; PyTorch's kernels are IOHW."""
    kernel = "params", *path, "kernel"
    yield entry(f"{name}.weight", kernel, (inputs, outputs, side, side), (2, 3, 0, 1))
    yield entry(f"{name}.bias", ("params", *path, "bias"), (outputs,), (0,))


def linear(name: str, path: Path, outputs: int, inputs: Shape) -> Iterator[Entry]:
    """Yields the entries of a linear layer.

    ``inputs`` is the number of features, or the shape (channels, height, width) of a feature map.
    """
    flat = prod(inputs)
    # Our models flatten a feature map as (height, width, channels).
    axes = (2, 3, 1, 0) if len(inputs) == 3 else (1, 0)
    kernel = "params", *path, "kernel"
    view = (outputs, *inputs)
    yield Entry(f"{name}.weight", kernel, (outputs, flat), view, axes, (flat, outputs))
    yield entry(f"{name}.bias", ("params", *path, "bias"), (outputs,), (0,))


def normalisation(name: str, path: Path, channels: int, norm: str) -> Iterator[Entry]:
    """Yields the entries of a norm; see `model_config.Norm`.

    Group norm and layer norm have no running statistics.
    """
    constant = {"frozen_batch": ("params", "batch_stats"), "fixed_batch": ("batch_stats",)}
    for theirs, collection, ours in BATCH_NORM[:2] if norm in ("group", "layer") else BATCH_NORM:
        collection = "constants" if collection in constant.get(norm, ()) else collection
        yield entry(f"{name}.{theirs}", (collection, *path, ours), (channels,), (0,))
