"""Detects objects in images larger than the network, window by window."""

import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from maskrcnn_jax import images, pasting
from maskrcnn_jax.resizing import Size
from maskrcnn_jax.tiling import seams
from maskrcnn_jax.tiling.windows import Grid, Window, cover

if TYPE_CHECKING:
    from maskrcnn_jax.detector import Detector

LARGEST_OVERLAP = 0.9
SMALLEST_WINDOW = 64  # Resized pixels: a cell of the coarsest level of the pyramid, P6.


def check_overlap(overlap: float | int) -> None:
    """Raises ValueError if an overlap is out of range."""
    if not 0 <= overlap <= LARGEST_OVERLAP:  # NaN fails this too.
        raise ValueError(f"overlap must be from 0 to {LARGEST_OVERLAP}, got {overlap}")


class TiledDetector:
    """A detector for images of any size, whose memory depends on its windows.

    Windows of ``tile`` pixels cover the image. Each is resized and padded like an image of its
    size, so objects have the right size if images of training were about as large as a window. All
    windows of an image have one size, and the model is compiled once for it. `seams` says how
    detections merge. An image that fits into one window has the detections of `Detector`.

    Args:
        detector: Detects in the windows, `Detector.batch_size` at once.
        tile: Height and width of a window, in pixels.
        overlap: Share of a window that its neighbour also sees, from 0 to 0.9. Objects smaller than
            the overlap are whole in one window.

    Raises:
        ValueError: The overlap is out of range, or a window is too small for the anchors.
    """

    def __init__(self, detector: "Detector", tile: int = 1024, overlap: float | int = 0.25) -> None:
        check_overlap(overlap)
        if tile < 1 or (smallest := min(detector.place((tile, tile))[0])) < SMALLEST_WINDOW:
            seen = "" if tile < 1 else f": resized, it has {smallest} pixels"
            raise ValueError(
                f"a tile of {tile} pixels is too small{seen}, and the anchors of the coarsest "
                f"feature map need {SMALLEST_WINDOW}"
            )
        self.detector, self.tile, self.overlap = detector, tile, overlap

    def __call__(
        self,
        image: Any,
        score_threshold: float | int | None = None,
        top_k: int | None = None,
        *,
        masks: pasting.MaskForm = "rle",
    ) -> dict[str, Any]:
        """Detects the objects of one image; returns a dictionary as `Detector.__call__` does.

        Args:
            image: As in `detect`.
            score_threshold: As in `Detector.__call__`.
            top_k: As in `detect`.
            masks: As in `Detector.__call__`; "cropped" masks are boolean here. "pasted" ones of a
                large image rarely fit into memory. `tracing.polygons` makes polygons of "cropped"
                ones.

        Raises:
            ValueError, OSError: As `detect`.
        """
        if masks not in typing.get_args(pasting.MaskForm):
            raise ValueError(f'masks must be "pasted", "cropped" or "rle", got {masks!r}')
        found = self.detect(image, score_threshold, top_k)
        prediction = {"boxes": found.boxes, "labels": found.labels, "scores": found.scores}
        if found.patches is not None:
            prediction["masks"] = pasting.in_form(found.patches, tuple(image.shape[:2]), masks)
        return prediction

    def grid(self, image: Any) -> Grid:
        """The windows of an image."""
        return cover(image.shape[:2], self.tile, self.overlap)

    def detect(
        self,
        image: Any,
        score_threshold: float | int | None = None,
        top_k: int | None = None,
        *,
        advance: Callable[[int], object] = lambda windows: None,
    ) -> pasting.ImageDetections:
        """Detects the objects of one image. Patches are boolean if there is more than one window.

        Args:
            image: An array as in `Detector.__call__`, or any object with a ``shape`` (H, W) or
                (H, W, channels) whose slices ``image[y0:y1, x0:x1]`` are such arrays, for example
                a `numpy.memmap` or what `files.open_image` returns.
            score_threshold: As in `Detector.__call__`.
            top_k: Keep at most this many detections of the image; by default all.
            advance: Called with the number of windows after each batch of them.

        Raises:
            ValueError: As in `Detector.__call__`.
            OSError: A window cannot be read.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if len(getattr(image, "shape", ())) not in (2, 3):
            kind = type(image).__name__
            raise ValueError(f"expected an image with a shape (H, W, channels), got {kind}")
        grid, size = self.grid(image), tuple(image.shape[:2])
        if len(grid) == 1:
            found = self.detector.detect(image[: size[0], : size[1]], score_threshold)
            advance(1)
        else:
            found = self._detect(image, grid, size, score_threshold, advance)
        patches = None if found.patches is None else found.patches[:top_k]
        best = (x[:top_k] for x in (found.boxes, found.labels, found.scores))
        return pasting.ImageDetections(*best, patches)

    def _detect(
        self,
        image: Any,
        grid: Grid,
        size: Size,
        score_threshold: float | int | None,
        advance: Callable[[int], object],
    ) -> pasting.ImageDetections:
        """Detects the objects of an image with several windows."""
        found: list[seams.Found] = []
        has_masks = True
        for start in range(0, len(grid), self.detector.batch_size):
            indices = range(start, min(start + self.detector.batch_size, len(grid)))
            batch = [self._read(image, grid.window(index)) for index in indices]
            detections = self.detector.detect_batch(batch, score_threshold)
            for index, each in zip(indices, detections, strict=True):
                found += seams.place(each, index, grid, size)
                has_masks = each.patches is not None
            advance(len(indices))
        return seams.merge(found, grid, size, masks=has_masks)

    def _read(self, image: Any, window: Window) -> np.ndarray:
        """Reads and checks the pixels of a window."""
        pixels = np.asarray(image[window.top : window.bottom, window.left : window.right])
        try:
            return images.load(pixels, self.detector.num_channels, self.detector.data.image_dtype)
        except ValueError as error:
            rows, columns = (window.top, window.bottom), (window.left, window.right)
            raise ValueError(f"rows {rows}, columns {columns}: {error}") from error
