"""3x3 convolution by Winograd's algorithm (Lavin and Gray, 2016): 16 products where a direct one takes 36.

F(2x2, 3x3): the map is cut into tiles of 4x4 cells that overlap by two; tile and kernel are transformed, multiplied
point by point, which over all channels is a matrix product for each of the 16 points, and transformed back to 2x2 cells
of the result. Its rounding errors are about those of a direct convolution.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maskrcnn_jax.modules.materialise import materialise

OF_TILE = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
OF_RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)

MIN_TILES = 200  # Below, transforming the kernel takes longer than is saved.
MIN_CHANNELS = 64


def pays_off(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Whether the algorithm is faster than a direct convolution of stride 1 on a CPU; ``shape`` is ``[b, h, w, i]``."""
    batch, height, width, _ = shape
    num_tiles = batch * -(-height // 2) * -(-width // 2)
    return kernel_shape[:2] == (3, 3) and num_tiles >= MIN_TILES and min(kernel_shape[2:]) >= MIN_CHANNELS


def convolve(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Convolves with stride 1 and one cell of zero padding on every side."""
    _, height, width, _ = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * columns - width + 1), (0, 0)))
    # Of every tile at once, the cell at each of the 16 points: [b, rows, columns, i].
    cells = [[x[:, y : y + 2 * rows : 2, z : z + 2 * columns : 2] for z in range(4)] for y in range(4)]
    tiles = _transform(OF_TILE, cells)
    kernels = jnp.einsum("ay,yzio,bz->abio", OF_KERNEL, kernel, OF_KERNEL, precision=jax.lax.Precision.HIGHEST)
    # Of each row of four products two sums are left, and the products are let go before the next row is computed.
    sums = [
        materialise(_combine(OF_RESULT, [_product(*pair) for pair in zip(*row, strict=True)]))
        for row in zip(tiles, kernels, strict=True)
    ]
    result = jnp.stack([jnp.stack(row, axis=3) for row in _combine_rows(OF_RESULT, sums)], axis=2)
    return result.reshape(x.shape[0], 2 * rows, 2 * columns, -1)[:, :height, :width]


def _product(tile: Float[Array, "b y x i"], matrix: Float[Array, "i o"]) -> Float[Array, "b y x o"]:
    return (tile.reshape(-1, tile.shape[-1]) @ matrix).reshape(*tile.shape[:-1], -1)


def _transform(matrix: np.ndarray, points: list[list[Array]]) -> list[list[Array]]:
    """``matrix @ points @ matrix.T``, where every point is an array."""
    return _combine_rows(matrix, [_combine(matrix, row) for row in points])


def _combine_rows(matrix: np.ndarray, points: list[list[Array]]) -> list[list[Array]]:
    """``matrix @ points``."""
    return [list(row) for row in zip(*(_combine(matrix, column) for column in zip(*points, strict=True)), strict=True)]


def _combine(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """``matrix @ arrays``: for each of its rows the sum of some arrays and of some others' negatives."""
    signed = [[a if weight > 0 else -a for weight, a in zip(row, arrays, strict=True) if weight] for row in matrix]
    return [sum(row[1:], start=row[0]) for row in signed]
