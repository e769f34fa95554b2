"""The predictions of one image or video: finds its objects, and writes its files."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskrcnn_jax import coco_metrics, images, video, visualize, whole_files
from maskrcnn_jax.cli import formats, memory
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.drawing import channels
from maskrcnn_jax.pasting import ImageDetections

# Pixels. Images whose short side is below `_LEGIBLE_SIDE` are enlarged for legible labels, unless
# their long side would exceed `_LONGEST_ENLARGED`.
_LEGIBLE_SIDE = 512
_LONGEST_ENLARGED = 4096

Advance = Callable[[int], None]
Find = Callable[[Any, Advance], ImageDetections]  # Tells how many parts of the image are done.


class Task(NamedTuple):
    """A file to find objects in."""

    path: Path
    output: Path  # The drawn image or video.
    num_parts: int  # Windows of an image or frames of a video, to show the progress.
    formats: tuple[str, ...] = formats.DEFAULT
    is_tiled: bool = False  # Large images are read by parts.


def of_image(task: Task, find: Find, detector: Detector, advance: Advance) -> list[dict]:
    """Writes the files of an image; returns its COCO results with "file_name" and the image id 0.

    Raises:
        OSError, ValueError, MemoryError: The image cannot be read, or a file cannot be written.
    """
    num_left, categories = task.num_parts, detector.categories

    def count(num_parts: int) -> None:
        nonlocal num_left
        num_left -= num_parts
        advance(num_parts)

    try:
        with _opened(task, detector) as image:
            found = find(image, count)
            results = _results(found, image, 0, categories)
            results = [result | {"file_name": str(task.path)} for result in results]
            if "picture" in task.formats:
                shown = channels.rgb(image, detector.data.shown_channels)
                drawing = Image.fromarray(_draw(shown, found, categories.names))
                with whole_files.replacing(task.output) as temporary:
                    drawing.save(temporary)
            stem = task.output.with_suffix("")
            formats.write(found, results, image.shape[:2], stem, task.formats)
    finally:
        advance(num_left)
    return results


@contextlib.contextmanager
def _opened(task: Task, detector: Detector) -> Iterator[Any]:
    """The image of a task: an array, or a large file that is read by parts."""
    kind = detector.num_channels, detector.data.image_dtype
    if not task.is_tiled:
        yield images.read_image(task.path, *kind)
        return
    from maskrcnn_jax.tiling import files  # Most predictions need none.

    with files.open_image(task.path, *kind) as image:
        yield image


def of_video(task: Task, find: Find, detector: Detector, advance: Advance) -> list[dict]:
    """Writes the video, and a line for each frame; returns no results: frames have no image id."""
    rate, categories = video.properties(task.path).rate, detector.categories
    lines_path = task.output.with_suffix(".jsonl")
    with video.write(task.output, rate) as append, open(lines_path, "w", encoding="utf-8") as lines:
        for number, frame in enumerate(video.read(task.path)):
            found = find(frame.image, lambda windows: None)
            # The colour of an instance would change between frames; that of a class does not.
            append(_draw(frame.image, found, categories.names, color_by_class=True))
            results = _results(found, frame.image, number, categories)
            line = {"frame": number, "seconds": frame.seconds, "detections": results}
            lines.write(json.dumps(line) + "\n")
            advance(1)
    return []


def _draw(
    image: UInt8[np.ndarray, "h w 3"],
    found: ImageDetections,
    names: Sequence[str],
    color_by_class: bool = False,
) -> UInt8[np.ndarray, "sh sw 3"]:
    short, long = sorted(image.shape[:2])
    scale = max(1, min(round(_LEGIBLE_SIDE / short), _LONGEST_ENLARGED // long))
    return visualize.draw(image, *found, names, scale=scale, color_by_class=color_by_class)


def failure(task: Task, error: Exception) -> str:
    """The message of a failed file. Raises the error again if the file is not its cause."""
    if isinstance(error, OSError):
        return str(error)  # The message names the file.
    if memory.ran_out(error):
        return f"{task.path}: {memory.explain(error)}"
    if isinstance(error, ValueError):
        return f"{task.path}: {error}"
    raise error


def _results(
    found: ImageDetections, image: Any, image_id: int | str, categories: Any
) -> list[dict]:
    results = coco_metrics.coco_results(found, image.shape[:2], image_id, categories.ids)
    names = [categories.name(label) for label in found.labels.tolist()]
    pairs = zip(results, names, strict=True)
    return [result | {"category_name": name} for result, name in pairs]
