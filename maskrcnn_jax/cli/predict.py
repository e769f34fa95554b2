"""`maskrcnn-jax predict`: finds objects in images and videos, and draws them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskrcnn_jax import cache, evaluation, images, video, visualize
from maskrcnn_jax.cli import inputs, memory, outputs, progress
from maskrcnn_jax.detector import Detector, checked_top_k
from maskrcnn_jax.pasting import ImageDetections

_LEGIBLE_SIDE = 512  # Pixels; pictures with a shorter side are drawn larger,
_LONGEST_ENLARGED = 4096  # unless the longer one would then exceed this.

Find = Callable[[np.ndarray], ImageDetections]


class _Task(NamedTuple):
    path: Path
    output: Path  # The picture or video to write.
    num_images: int  # Frames of a video.


def run(args: argparse.Namespace) -> int:
    """Writes a picture for each image, and `detections.json` for all; returns 1 if a file cannot be read, else 0.

    `detections.json` is in COCO's results format, with the names of file and category besides. The image id is the name
    without its ending, as a number where it is one, as the names of COCO's images are. A video becomes an .mp4, and a
    .jsonl with a line for each frame.
    """
    cache.keep_compiled_programs()
    tasks = _plan(inputs.expand(args.images), args.output)
    detector = _load(args)
    checked_top_k(args.top_k, detector.model.config.detection.num_detections)  # Else every image would fail.
    outputs.make_directory(args.output)

    def find(image: np.ndarray) -> ImageDetections:
        return detector.detect(image, args.score_threshold, args.top_k)

    results, failures = [], {}
    try:
        with progress.images("predict", sum(task.num_images for task in tasks)) as advance:
            for task in tasks:
                predict = _predict_video if inputs.is_video(task.path) else _predict_image
                try:
                    results += predict(task, find, detector.categories, advance)
                except (OSError, ValueError, MemoryError, RuntimeError) as error:
                    failures[task] = _failure(task, error)
    finally:  # An interruption leaves what was found before.
        (args.output / "detections.json").write_text(json.dumps(results))
    _report(results, tasks, failures, args.output)
    return 1 if failures else 0


def _load(args: argparse.Namespace) -> Detector:
    """What detects, from weights or from an artifact."""
    if args.artifact is not None:
        if args.augment:
            raise ValueError("an artifact cannot be asked for masks of given boxes: use --augment with --weights")
        return Detector.from_artifact(args.artifact)
    # Brings flax, which takes a while, and may not be installed for artifacts.
    from maskrcnn_jax.test_time_augmentation import AugmentedDetector
    from maskrcnn_jax.weights import loading

    loaded = loading.load(args.weights)
    print(loaded.report)
    detector = Detector.from_loaded(loaded)
    return AugmentedDetector(detector) if args.augment else detector


def _plan(paths: Sequence[Path], output: Path) -> list[_Task]:
    """What becomes of each file. Raises ValueError where it would be replaced by its own picture."""
    tasks = []
    for path, name in zip(paths, _names(paths), strict=True):
        is_video = inputs.is_video(path)
        task = _Task(path, output / f"{name}.{'mp4' if is_video else 'png'}", _num_frames(path) if is_video else 1)
        if task.output.resolve() == path.resolve():
            raise ValueError(f"--output {output} would overwrite {path}: give another directory")
        tasks.append(task)
    return tasks


def _names(paths: Sequence[Path]) -> list[str]:
    """File names without their endings; those that would coincide get a number."""
    names: dict[str, None] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}-{number}", number + 1
        names[name] = None
    return list(names)


def _num_frames(path: Path) -> int:
    video.check_installed()
    try:
        return video.properties(path).num_frames
    except OSError:
        return 0  # It fails when its turn comes.


def _predict_image(task: _Task, find: Find, categories: Any, advance: Callable[[int], None]) -> list[dict]:
    try:
        image = images.read_image(task.path)
        found = find(image)
        Image.fromarray(_draw(image, found, categories.names)).save(task.output)
    finally:
        advance(1)
    name = task.output.stem
    results = _results(found, image, int(name) if name.isdecimal() else name, categories)
    return [result | {"file_name": str(task.path)} for result in results]


def _predict_video(task: _Task, find: Find, categories: Any, advance: Callable[[int], None]) -> list[dict]:
    """Writes the video and the lines for its frames; returns nothing, since a frame is no image of its own."""
    rate = video.properties(task.path).rate
    lines_path = task.output.with_suffix(".jsonl")
    with video.write(task.output, rate) as append, open(lines_path, "w", encoding="utf-8") as lines:
        for number, frame in enumerate(video.read(task.path)):
            found = find(frame.image)
            # The colour of an object would change from frame to frame.
            append(_draw(frame.image, found, categories.names, color_by_class=True))
            results = _results(found, frame.image, number, categories)
            line = {"frame": number, "seconds": frame.seconds, "detections": results}
            lines.write(json.dumps(line) + "\n")
            advance(1)
    return []


def _draw(
    image: UInt8[np.ndarray, "h w 3"], found: ImageDetections, names: Sequence[str], color_by_class: bool = False
) -> UInt8[np.ndarray, "sh sw 3"]:
    short, long = sorted(image.shape[:2])
    scale = max(1, min(round(_LEGIBLE_SIDE / short), _LONGEST_ENLARGED // long))
    return visualize.draw(image, *found, names, scale=scale, color_by_class=color_by_class)


def _failure(task: _Task, error: Exception) -> str:
    """Why there is no result for a file. Raises the error again if it says nothing of the file."""
    if isinstance(error, OSError):
        return str(error)  # It names the file.
    if memory.ran_out(error):
        return f"{task.path}: {memory.explain(error)}"
    if isinstance(error, ValueError):
        return f"{task.path}: {error}"
    raise error


def _results(found: ImageDetections, image: np.ndarray, image_id: int | str, categories: Any) -> list[dict]:
    results = evaluation.coco_results(found, image.shape[:2], image_id, categories.ids)
    names = [categories.name(label) for label in found.labels.tolist()]
    return [result | {"category_name": name} for result, name in zip(results, names, strict=True)]


def _report(results: Sequence[dict], tasks: Sequence[_Task], failures: dict[_Task, str], output: Path) -> None:
    done = [task for task in tasks if task not in failures]
    num_videos = sum(inputs.is_video(task.path) for task in done)
    num_images = len(done) - num_videos
    if num_images or not num_videos:
        print(f"{len(results)} objects in {num_images} images: pictures and detections.json are in {output}")
    if num_videos:
        print(f"videos: {num_videos}, each an .mp4 in {output}, and a .jsonl with a line for each frame")
    if failures:
        failed = f"maskrcnn-jax predict: {len(failures)} of {len(tasks)} files failed:"
        print(failed, *failures.values(), sep="\n  ", file=sys.stderr)
