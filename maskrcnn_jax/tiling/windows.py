"""Windows of one size that cover an image, and which of them overlap."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from maskrcnn_jax.resizing import Size


class Window(NamedTuple):
    """A rectangle of an image, in whole pixels."""

    top: int
    left: int
    bottom: int
    right: int

    def intersection(self, other: "Window") -> "Window":
        """The pixels of both windows; its bottom or right is not positive without any."""
        low = max(self.top, other.top), max(self.left, other.left)
        return Window(*low, min(self.bottom, other.bottom), min(self.right, other.right))

    @property
    def has_area(self) -> bool:
        """Whether there is a pixel in it."""
        return self.bottom > self.top and self.right > self.left


class Grid(NamedTuple):
    """Windows of one size, in rows from the top and from left to right."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    size: Size

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def window(self, index: int) -> Window:
        """The window of an index."""
        row, column = divmod(index, len(self.lefts))
        top, left = self.tops[row], self.lefts[column]
        return Window(top, left, top + self.size[0], left + self.size[1])

    def overlapping(self, index: int) -> Iterator[int]:
        """The later windows that share pixels with a window."""
        row, column = divmod(index, len(self.lefts))
        for other_row in range(row, len(self.tops)):
            if self.tops[other_row] >= self.tops[row] + self.size[0]:
                break
            for other_column in range(len(self.lefts)):
                other = other_row * len(self.lefts) + other_column
                if other > index and (
                    abs(self.lefts[other_column] - self.lefts[column]) < self.size[1]
                ):
                    yield other


def cover(size: Size, tile: int, overlap: float | int) -> Grid:
    """Covers an image with windows of ``tile`` pixels, or of the image's side if that is shorter.

    Neighbours share at least ``overlap * tile`` pixels. The last window of each axis ends with the
    image, so it may share more.

    Args:
        size: Height and width of the image.
        tile: Height and width of a window, in pixels.
        overlap: Share of a window, from 0 to 0.9.
    """
    step = tile - math.ceil(overlap * tile)
    starts = [(*range(0, max(side - tile, 0), step), max(side - tile, 0)) for side in size]
    return Grid(*starts, (min(tile, size[0]), min(tile, size[1])))
