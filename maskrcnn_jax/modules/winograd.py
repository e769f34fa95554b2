"""3x3 convolution by Winograd's algorithm (Lavin and Gray, 2016): 16 products where a direct one takes 36.

F(2x2, 3x3): the map is cut into tiles of 4x4 cells that overlap by two; tile and kernel are transformed, multiplied
point by point, which over all channels is a matrix product for each of the 16 points, and transformed back to 2x2 cells
of the result. Its rounding errors are about those of a direct convolution.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maskrcnn_jax.modules.materialise import materialise

OF_TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
OF_RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)

MIN_TILES = 300  # Below, transforming the kernel takes longer than is saved.
MIN_CHANNELS = 64


def pays_off(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Whether the algorithm is faster than a direct convolution of stride 1 on a CPU; ``shape`` is ``[b, h, w, i]``."""
    batch, height, width, _ = shape
    num_tiles = batch * -(-height // 2) * -(-width // 2)
    return kernel_shape[:2] == (3, 3) and num_tiles >= MIN_TILES and min(kernel_shape[2:]) >= MIN_CHANNELS


def convolve(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Convolves with stride 1 and one cell of zero padding on every side."""
    b, height, width, _ = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    kernels = jnp.einsum("ay,yzio,bz->abio", OF_KERNEL, kernel, OF_KERNEL, precision=jax.lax.Precision.HIGHEST)
    # Of each row of four products two sums are left, and the products are let go before the next row is computed.
    sums = [
        materialise(_combine(OF_RESULT, [point @ matrix for point, matrix in zip(points, matrices, strict=True)]))
        for points, matrices in zip(_tiles(x), kernels, strict=True)
    ]
    cells = [[cell.reshape(b, rows, columns, -1) for cell in row] for row in zip(*sums, strict=True)]
    cells = zip(*(_combine(OF_RESULT, column) for column in cells), strict=True)
    result = jnp.stack([jnp.stack(row, axis=3) for row in cells], axis=2)
    return result.reshape(b, 2 * rows, 2 * columns, -1)[:, :height, :width]


def kernel_gradient(x: Float[Array, "b h w i"], gradient: Float[Array, "b h w o"]) -> Float[Array, "3 3 i o"]:
    """The gradient by the kernel of the convolution of ``x``, given that by its result."""
    height, width, features = gradient.shape[1:]
    gradient = jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    of_rows = _combine(OF_RESULT.T, [gradient[:, y::2] for y in range(2)])
    products = []
    for points, row in zip(_tiles(x), of_rows, strict=True):
        row = materialise(row)
        of_points = _combine(OF_RESULT.T, [row[:, :, z::2].reshape(-1, features) for z in range(2)])
        products.append(materialise([point.T @ g for point, g in zip(points, of_points, strict=True)]))
    products = jnp.stack([jnp.stack(row) for row in products])
    return jnp.einsum("ay,abio,bz->yzio", OF_KERNEL, products, OF_KERNEL, precision=jax.lax.Precision.HIGHEST)


def _tiles(x: Float[Array, "b h w i"]) -> Iterator[list[Float[Array, "n i"]]]:
    """Transforms tiles of 4x4 cells, row by row of a tile: of all tiles at once, their four points in that row."""
    _, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * columns - width + 1), (0, 0)))
    for row in _combine(OF_TILE, [x[:, y : y + 2 * rows : 2] for y in range(4)]):
        row = materialise(row)  # All four points read it.
        yield _combine(OF_TILE, [row[:, :, z : z + 2 * columns : 2].reshape(-1, channels) for z in range(4)])


def _combine(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """``matrix @ arrays``: for each of its rows the sum of some arrays, less some others."""
    return [_signed_sum([(weight, a) for weight, a in zip(row, arrays, strict=True) if weight]) for row in matrix]


def _signed_sum(terms: list[tuple[np.float32, Array]]) -> Array:
    (weight, total), *others = sorted(terms, key=lambda term: term[0], reverse=True)
    total = total if weight > 0 else -total
    for weight, a in others:
        total = total + a if weight > 0 else total - a
    return total
