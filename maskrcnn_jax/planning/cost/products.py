"""Multiplications of the matrix products and convolutions in a compiled program."""

import math
from typing import NamedTuple

import numpy as np

from maskrcnn_jax.planning.hlo import Instruction
from maskrcnn_jax.planning.shapes import Array, arrays


class Product(NamedTuple):
    """``groups`` products of a ``rows x depth`` with a ``depth x columns`` matrix."""

    groups: int
    rows: int
    columns: int
    depth: float  # Zeros between the cells of a dilated map, and padding, left out.

    @property
    def multiplications(self) -> float:
        return self.groups * self.rows * self.columns * self.depth


def read(instruction: Instruction, operands: list[str]) -> Product:
    """The product of a ``dot`` or ``convolution``.

    Args:
        instruction: The instruction.
        operands: The shapes of its operands.
    """
    left, right = (arrays(shape)[0] for shape in operands[:2])
    if instruction.opcode == "dot":
        return _dot(instruction, left, right)
    return _convolution(instruction, left, right, arrays(instruction.shape)[0])


def passes(instruction: Instruction, operands: list[str]) -> int:
    """How often the matrix units multiply for the precision of a product, in bfloat16."""
    num_float32 = sum(arrays(shape)[0].dtype == "f32" for shape in operands[:2])
    precision = instruction.find(r"operand_precision=\{([^}]*)\}")
    if "highest" in precision:
        return (1, 3, 6)[num_float32]
    return (1, 2, 3)[num_float32] if "high" in precision else 1


def _dot(instruction: Instruction, left: Array, right: Array) -> Product:
    def product(name: str) -> int:
        axes = instruction.find(rf"{name}=\{{([\d,]*)\}}")
        return math.prod(left.sides[int(axis)] for axis in axes.split(",") if axis)

    depth, groups = product("lhs_contracting_dims"), product("lhs_batch_dims")
    rows, columns = (side.elements // (depth * groups) for side in (left, right))
    return Product(groups, rows, columns, float(depth))


def _convolution(instruction: Instruction, left: Array, kernel: Array, result: Array) -> Product:
    labels = instruction.find(r"dim_labels=(\w+_\w+->\w+)")
    of_left, of_kernel, of_result = labels.replace("->", "_").split("_")
    window = instruction.find(r"window=\{([^}]*)\}")
    fields = {"stride": "", "lhs_dilate": "", "rhs_dilate": "", "pad": ""}
    fields |= dict(field.split("=", 1) for field in window.split())
    groups, rows = 1, result.sides[of_result.index("b")]
    depth = float(kernel.sides[of_kernel.index("i")])
    for axis in range(len(of_kernel) - 2):
        width = kernel.sides[of_kernel.index(str(axis))]
        length = result.sides[of_result.index(str(axis))]
        cells = left.sides[of_left.index(str(axis))]
        steps = (_number(fields[name], axis, 1) for name in ("stride", "lhs_dilate", "rhs_dilate"))
        pairs = _pairs(cells, width, length, *steps, pad=_number(fields["pad"], axis, 0))
        # For TPUs XLA writes a batch of products so: each tap meets one cell of one position.
        if width > 1 and width == length == pairs:
            groups *= length
        else:
            rows, depth = rows * length, depth * pairs / length
    depth /= int(instruction.find(r"batch_group_count=(\d+)", "1"))
    return Product(groups, rows, result.sides[of_result.index("f")], depth)


def _number(field: str, axis: int, default: int) -> int:
    """Reads the number of one axis from ``2x3``, or the lower padding from ``1_1x0_2``."""
    return int(field.split("x")[axis].split("_")[0]) if field else default


def _pairs(
    cells: int, width: int, length: int, stride: int, dilate: int, kernel_dilate: int, pad: int
) -> int:
    """Pairs of a position of the result and one of the kernel that meet a cell, along one axis."""
    last, positions, count = (cells - 1) * dilate, np.arange(length) * stride - pad, 0
    for tap in range(width):
        reached = positions + tap * kernel_dilate
        count += int(((reached >= 0) & (reached <= last) & (reached % dilate == 0)).sum())
    return count
