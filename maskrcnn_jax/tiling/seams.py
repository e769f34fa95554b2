"""Merges the detections of overlapping windows into those of the whole image.

A side of a window is a seam if it does not lie on the side of the image. A detection is *cut* if
its box comes closer than `EDGE` of the window's side to a seam; otherwise it is *whole*. The rule:

1. A cut detection is dropped if another window holds its box without cutting it: that window saw
   all of it, and more around it.
2. Two detections of one class from two windows are a pair if, in the pixels that both windows see,
   the IoU of their masks is at least `SAME`. Without a mask head, the masks are the boxes.
3. Pairs join in the order of their IoU, the highest first; the first windows break ties. A pair
   does not join if two detections of one window would come together: a window tells its
   neighbours apart, and they stay apart.
4. Of detections that joined, the whole one with the highest score stays. If all of them are cut,
   they become one: the union of their masks, the box around their boxes, the highest score.

So an object that is smaller than the overlap comes from one window that saw it whole, and a larger
one is put together.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from maskrcnn_jax.pasting import ImageDetections
from maskrcnn_jax.resizing import Size
from maskrcnn_jax.tiling.windows import Grid, Window

EDGE = 1 / 32  # Share of a window's side.
SAME = 0.5  # IoU.


class Found(NamedTuple):
    """A detection in one window; coordinates are those of the whole image."""

    window: int  # The index of the window in its grid.
    is_cut: bool
    box: Float[np.ndarray, " 4"]  # x0, y0, x1, y1.
    label: int
    score: float
    extent: Window  # The pixels of the mask, or around the box without a mask head.
    mask: np.ndarray | None  # Bits of the extent as `np.packbits` packs them; None if all are set.

    def inside(self, part: Window) -> Bool[np.ndarray, "y x"]:
        """The pixels of the mask in a part of the image."""
        drawn = np.zeros((part.bottom - part.top, part.right - part.left), bool)
        shared = part.intersection(self.extent)
        if shared.has_area:
            rows = slice(shared.top - part.top, shared.bottom - part.top)
            columns = slice(shared.left - part.left, shared.right - part.left)
            own_rows = slice(shared.top - self.extent.top, shared.bottom - self.extent.top)
            own_columns = slice(shared.left - self.extent.left, shared.right - self.extent.left)
            drawn[rows, columns] = self.pixels()[own_rows, own_columns]
        return drawn

    def pixels(self) -> Bool[np.ndarray, "y x"]:
        """The mask in its extent."""
        shape = self.extent.bottom - self.extent.top, self.extent.right - self.extent.left
        if self.mask is None:
            return np.ones(shape, bool)
        return np.unpackbits(self.mask, count=shape[0] * shape[1]).reshape(shape).astype(bool)


def place(found: ImageDetections, index: int, grid: Grid, size: Size) -> list[Found]:
    """Moves the detections of a window to the image; those without a pixel are left out.

    Args:
        found: The detections, in pixels of the window.
        index: The index of the window in the grid.
        grid: The windows of the image.
        size: Height and width of the image.
    """
    window = grid.window(index)
    placed = []
    for i, (box, label, score) in enumerate(
        zip(found.boxes, found.labels.tolist(), found.scores.tolist(), strict=True)
    ):
        box = box.astype(np.float64) + np.array([window.left, window.top] * 2)
        if found.patches is None:
            low, high = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
            extent, mask = Window(*low[::-1].tolist(), *high[::-1].tolist()), None
        else:
            patch, (y, x) = found.patches[i]
            top, left = window.top + y, window.left + x
            extent = Window(top, left, top + patch.shape[0], left + patch.shape[1])
            mask = np.packbits(patch > 0.5)
        if extent.has_area:
            cut = is_cut(box, window, size)
            placed.append(Found(index, cut, box, label, score, extent, mask))
    return placed


def is_cut(box: Float[np.ndarray, " 4"], window: Window, size: Size) -> bool:
    """Whether a box comes close to a side of a window that is no side of the image."""
    x0, y0, x1, y1 = box.tolist()
    height, width = window.bottom - window.top, window.right - window.left
    return _near(y0, y1, window.top, height, size[0]) or _near(x0, x1, window.left, width, size[1])


def _near(low: float, high: float, start: int, side: int, length: int) -> bool:
    """`is_cut` for one axis: a box from ``low`` to ``high``, a window of ``side`` pixels."""
    starts_cut = start > 0 and low < start + EDGE * side
    return starts_cut or (start + side < length and high > start + side - EDGE * side)


def merge(found: Sequence[Found], grid: Grid, size: Size, *, masks: bool) -> ImageDetections:
    """Merges the detections of all windows, by the rule of this module.

    Args:
        found: The detections that `place` returned.
        grid: The windows of the image.
        size: Height and width of the image.
        masks: Whether the detections have masks.

    Returns:
        Detections by descending score. Masks are boolean.
    """
    kept = [one for one in found if not (one.is_cut and _is_whole_somewhere(one.box, grid, size))]
    merged = [_united([kept[i] for i in group]) for group in _groups(kept, grid)]
    merged.sort(key=lambda one: -one.score)
    patches = [(one.pixels(), (one.extent.top, one.extent.left)) for one in merged]
    return ImageDetections(
        np.array([one.box for one in merged], np.float32).reshape(-1, 4),
        np.array([one.label for one in merged], np.int64),
        np.array([one.score for one in merged], np.float32),
        patches if masks else None,
    )


def _is_whole_somewhere(box: Float[np.ndarray, " 4"], grid: Grid, size: Size) -> bool:
    """Whether a window of the grid holds a box without cutting it."""
    x0, y0, x1, y1 = box.tolist()
    axes = (grid.tops, y0, y1), (grid.lefts, x0, x1)
    return all(
        any(
            start <= low and high <= start + side and not _near(low, high, start, side, length)
            for start in starts
        )
        for (starts, low, high), side, length in zip(axes, grid.size, size, strict=True)
    )


def _groups(found: Sequence[Found], grid: Grid) -> list[list[int]]:
    """The indices of detections that belong together; a detection without a pair is a group."""
    group_of = {i: [i] for i in range(len(found))}
    for _, first, second in sorted(_pairs(found, grid)):
        one, other = group_of[first], group_of[second]
        windows = {found[i].window for i in one}
        if windows.isdisjoint(found[i].window for i in other):
            one.extend(other)
            group_of.update((i, one) for i in other)
    return list({id(group): group for group in group_of.values()}.values())


def _pairs(found: Sequence[Found], grid: Grid) -> Iterator[tuple[float, int, int]]:
    """Minus the IoU, and the indices, of the detections that two windows both found."""
    windows = np.array([one.window for one in found])
    extents = np.array([one.extent for one in found]).reshape(-1, 4)
    labels = np.array([one.label for one in found])
    for window in dict.fromkeys(windows.tolist()):
        members = np.flatnonzero(windows == window)
        for other_window in grid.overlapping(window):
            others = np.flatnonzero(windows == other_window)
            shared = grid.window(window).intersection(grid.window(other_window))
            low = np.maximum(extents[members, None, :2], extents[others, :2])
            high = np.minimum(extents[members, None, 2:], extents[others, 2:])
            touching = np.all(np.minimum(high, shared[2:]) > np.maximum(low, shared[:2]), axis=2)
            touching &= labels[members, None] == labels[others]
            for i, j in np.argwhere(touching).tolist():
                first, second = int(members[i]), int(others[j])
                iou = _iou(found[first], found[second], shared)
                if iou >= SAME:
                    yield -iou, first, second


def _iou(one: Found, other: Found, shared: Window) -> float:
    """The IoU of two masks in the pixels that their windows share."""
    around = _around([one.extent, other.extent]).intersection(shared)
    first, second = one.inside(around), other.inside(around)
    return float(np.sum(first & second) / max(np.sum(first | second), 1))


def _around(extents: Sequence[Window]) -> Window:
    """The smallest rectangle around several."""
    low, high = np.array(extents)[:, :2].min(0), np.array(extents)[:, 2:].max(0)
    return Window(*low.tolist(), *high.tolist())


def _united(group: Sequence[Found]) -> Found:
    """The one detection of a group, by rule 4."""
    whole = [one for one in group if not one.is_cut]
    best = max(whole or group, key=lambda one: one.score)
    if whole or len(group) == 1:
        return best
    boxes = np.stack([one.box for one in group])
    box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    extent = _around([one.extent for one in group])
    if best.mask is None:
        return best._replace(box=box, extent=extent)
    pixels = np.any([one.inside(extent) for one in group], axis=0)
    return best._replace(box=box, extent=extent, mask=np.packbits(pixels))
