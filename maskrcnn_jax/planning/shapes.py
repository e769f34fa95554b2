"""Arrays in the shapes of a compiled program, and their bytes."""

import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,*]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
HBM, VMEM = 0, 1  # Memory spaces of a TPU; all other chips have the first only.


class Array(NamedTuple):
    """An array of an HLO shape."""

    dtype: str
    bits: int  # Per element.
    sides: tuple[int, ...]
    layout: str  # ``1,0:T(8,128)S(1)``: axes from minor to major, tiles, memory space.

    @property
    def elements(self) -> int:
        return math.prod(self.sides)

    @property
    def logical_bytes(self) -> int:
        return self.elements * self.bits // 8

    @property
    def bytes(self) -> int:
        """Bytes with the padding of the first tile, in which a TPU lays arrays out."""
        sides = list(self.sides)
        axes = [int(axis) for axis in self.layout.partition(":")[0].split(",") if axis.isdigit()]
        if tile := _TILE.search(self.layout):
            tile_sides = [int(side) for side in tile[1].split(",") if side.isdigit()]
            for axis, side in zip(axes, reversed(tile_sides), strict=False):
                sides[axis] = -(-sides[axis] // side) * side
        return math.prod(sides) * self.bits // 8

    @property
    def space(self) -> int:
        """The memory that holds it: `HBM`, `VMEM`, or a smaller one."""
        found = _SPACE.search(self.layout)
        return int(found[1]) if found else HBM


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape; a tuple has several."""
    found = []
    for dtype, bits, sides, layout in _ARRAY.findall(shape):
        sides = tuple(int(side.removeprefix("<=")) for side in sides.split(",") if side)
        found.append(Array(dtype, int(bits or 8), sides, layout))
    return found


def num_bytes(shape: str, space: int = HBM) -> int:
    """Bytes of the arrays of a shape that lie in a memory space."""
    return sum(array.bytes for array in arrays(shape) if array.space == space)
