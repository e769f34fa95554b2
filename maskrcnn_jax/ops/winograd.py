"""3x3 convolution by Winograd's algorithm (Lavin and Gray, 2016), on a CPU.

The algorithm is F(2x2, 3x3): 16 products where a direct convolution takes 36. The map is cut into
tiles of 4x4 cells that overlap by two. Tile and kernel are transformed and multiplied point by
point; over all channels, that is one matrix product for each of the 16 points. The products are
transformed back to 2x2 cells of the result. Rounding errors are about those of a direct
convolution.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maskrcnn_jax.ops.rounding import ceil_div
from maskrcnn_jax.xla.barriers import barrier

# The transforms of a tile, of a kernel and of the products, each applied to rows and columns.
TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)

MIN_TILES = 300  # With fewer, transforming the kernel takes longer than the products save.
MIN_CHANNELS = 64


def is_faster(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Whether the algorithm is faster than a direct convolution of stride 1 on a CPU.

    Args:
        shape: Of the input, ``[b, h, w, i]``.
        kernel_shape: Of the kernel, ``[kh, kw, i, o]``.
    """
    batch, height, width, _ = shape
    if kernel_shape[:2] != (3, 3) or min(kernel_shape[2:]) < MIN_CHANNELS:
        return False
    return batch * ceil_div(height, 2) * ceil_div(width, 2) >= MIN_TILES


def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h w o"]:
    """Convolves with stride 1 and one cell of zero padding on every side."""
    b, height, width, _ = x.shape
    rows, columns = ceil_div(height, 2), ceil_div(width, 2)
    kernels = _transform("ay,yzio,bz->abio", kernel)
    sums = []
    for points, matrices in zip(_tiles(x), kernels, strict=True):
        products = [point @ matrix for point, matrix in zip(points, matrices, strict=True)]
        # The barrier frees the four products of a row before the next row is computed; two sums
        # remain.
        sums.append(barrier(_combine(RESULT, products)))
    cell_columns = []
    for column in zip(*sums, strict=True):
        points = [point.reshape(b, rows, columns, -1) for point in column]
        cell_columns.append(_combine(RESULT, points))
    cell_rows = zip(*cell_columns, strict=True)
    result = jnp.stack([jnp.stack(row, axis=3) for row in cell_rows], axis=2)
    return result.reshape(b, 2 * rows, 2 * columns, -1)[:, :height, :width]


def kernel_gradient(
    x: Float[Array, "b h w i"], gradient: Float[Array, "b h w o"]
) -> Float[Array, "3 3 i o"]:
    """The cotangent of the kernel, from the input of the convolution and its cotangent."""
    height, width, features = gradient.shape[1:]
    gradient = jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    gradient_rows = _combine(RESULT.T, [gradient[:, y::2] for y in range(2)])
    products = []
    for points, row in zip(_tiles(x), gradient_rows, strict=True):
        row = barrier(row)
        columns = [row[:, :, z::2].reshape(-1, features) for z in range(2)]
        pairs = zip(points, _combine(RESULT.T, columns), strict=True)
        products.append(barrier([point.T @ cotangent for point, cotangent in pairs]))
    products = jnp.stack([jnp.stack(row) for row in products])
    return _transform("ay,abio,bz->yzio", products)


def _transform(formula: str, x: Array) -> Array:
    """Applies the transform of the kernel, or its transpose, to rows and columns."""
    return jnp.einsum(formula, KERNEL, x, KERNEL, precision=jax.lax.Precision.HIGHEST)


def _tiles(x: Float[Array, "b h w i"]) -> Iterator[list[Float[Array, "n i"]]]:
    """Transforms all tiles of 4x4 cells; yields the four points of one row of a tile at a time."""
    _, height, width, channels = x.shape
    rows, columns = ceil_div(height, 2), ceil_div(width, 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * columns - width + 1), (0, 0)))
    for row in _combine(TILE, [x[:, y : y + 2 * rows : 2] for y in range(4)]):
        row = barrier(row)  # All four points read it.
        cells = [row[:, :, z : z + 2 * columns : 2] for z in range(4)]
        yield _combine(TILE, [cell.reshape(-1, channels) for cell in cells])


def _combine(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """``matrix @ arrays``, for a matrix of zeros, ones and minus ones."""
    results = []
    for row in matrix:
        terms = [(weight, a) for weight, a in zip(row, arrays, strict=True) if weight]
        results.append(_signed_sum(terms))
    return results


def _signed_sum(terms: list[tuple[np.float32, Array]]) -> Array:
    """The sum of some arrays minus others; a positive term comes first, to save a negation."""
    (weight, total), *others = sorted(terms, key=lambda term: term[0], reverse=True)
    total = total if weight > 0 else -total
    for weight, a in others:
        total = total + a if weight > 0 else total - a
    return total
