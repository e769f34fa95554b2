"""`maskrcnn-jax predict`: finds objects in images and videos, and draws them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskrcnn_jax import coco_metrics, images, video, visualize, whole_files
from maskrcnn_jax.cli import formats, inputs, memory, outputs, progress
from maskrcnn_jax.data.findings import plain
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.detector_inputs import checked_top_k
from maskrcnn_jax.drawing import channels
from maskrcnn_jax.pasting import ImageDetections
from maskrcnn_jax.xla import cache, compiler

# Pixels. Images whose short side is below `_LEGIBLE_SIDE` are enlarged for legible labels, unless
# their long side would exceed `_LONGEST_ENLARGED`.
_LEGIBLE_SIDE = 512
_LONGEST_ENLARGED = 4096

# The files about all images, and their formats.
_OF_ALL = {"detections.json": "coco", formats.MEASUREMENTS: "csv"}
_WORDS = {
    "picture": "drawn images",
    "coco": "detections.json",
    "geojson": ".geojson files",
    "labels": "pictures of labels",
    "csv": formats.MEASUREMENTS,
}

Find = Callable[[np.ndarray], ImageDetections]


class _Task(NamedTuple):
    path: Path
    output: Path  # The drawn image or video.
    num_images: int  # 1, or the number of frames of a video.
    formats: tuple[str, ...] = formats.DEFAULT


def run(args: argparse.Namespace) -> int:
    """Draws each image and writes `detections.json` for all; returns 1 if a file failed, else 0.

    --formats chooses what is written for images: `formats.NAMES`.

    `detections.json` is in COCO's results format, with "file_name" and "category_name" added. It
    has no "segmentation" if the model has no mask head. The image ids are those of --ids, or the
    file names without their suffixes; these become numbers, as in COCO, if all of them are numbers
    and differ. A video becomes an .mp4, and a .jsonl with one line for each frame.
    """
    cache.keep_compiled_programs()
    tasks = _plan(inputs.expand(args.images), args.output, args.formats)
    image_ids = _image_ids(tasks, args.ids)
    weights = args.weights if args.artifact is None else args.artifact
    read = [task.path for task in tasks] + [weights, args.ids]
    paths = [path for task in tasks for path in _outputs(task)]
    paths += [args.output / name for name in _OF_ALL if _OF_ALL[name] in args.formats]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"two outputs would be {twice}: rename an image")
    outputs.check_directory(args.output)
    with outputs.claim("maskrcnn-jax predict", paths, inputs=read, force=args.force) as add:
        return _predict(args, tasks, image_ids, add)


def _predict(
    args: argparse.Namespace,
    tasks: Sequence[_Task],
    image_ids: dict[_Task, int | str],
    add: Callable[..., None],
) -> int:
    """Predicts all files; ``add`` is told of each output."""
    detector = _load(args)
    if detector.model.run.small_on_cpu:
        compiler.return_memory_after_compiling()
    slots = detector.model.detection.num_detections
    checked_top_k(args.top_k, slots)  # Fails here once, not once for each image.
    outputs.make_directory(args.output)

    def find(image: np.ndarray) -> ImageDetections:
        return detector.detect(image, args.score_threshold, args.top_k)

    results, failures = [], {}
    try:
        with progress.images("predict", sum(task.num_images for task in tasks)) as advance:
            for task in tasks:
                add(*_outputs(task))
                predict = _predict_video if inputs.is_video(task.path) else _predict_image
                try:
                    found = predict(task, find, detector, advance)
                    results += [result | {"image_id": image_ids[task]} for result in found]
                except (OSError, ValueError, MemoryError, RuntimeError) as error:
                    failures[task] = _failure(task, error)
    finally:  # Keeps the detections made before an interruption.
        _write_all(results, args.output, args.formats, add)
    _report(results, tasks, failures, args)
    return 1 if failures else 0


def _write_all(
    results: Sequence[dict], output: Path, chosen: Sequence[str], add: Callable[..., None]
) -> None:
    """Writes the files about all images."""
    if "coco" in chosen:
        add(output / "detections.json")
        whole_files.write_text(output / "detections.json", json.dumps(results))
    if "csv" in chosen:
        add(output / formats.MEASUREMENTS)
        formats.write_measurements(output / formats.MEASUREMENTS, results)


def _load(args: argparse.Namespace) -> Detector:
    """Loads the detector from weights or from an artifact."""
    if args.artifact is not None:
        if args.augment:
            raise ValueError(
                "an artifact cannot draw masks in given boxes: use --augment with --weights"
            )
        return Detector.from_artifact(args.artifact)
    # Imported late: flax is slow to import, and need not be installed for artifacts.
    from maskrcnn_jax.test_time_augmentation import AugmentedDetector
    from maskrcnn_jax.weights import loading

    loaded = loading.load(args.weights)
    if "labels" in args.formats and loaded.config.model.mask_head is None:
        raise ValueError(formats.NO_MASKS)
    print(loaded.report)
    detector = Detector.from_loaded(loaded, consume=True)
    return AugmentedDetector(detector) if args.augment else detector


def _outputs(task: _Task) -> list[Path]:
    """The files that are written for a task."""
    if inputs.is_video(task.path):
        return [task.output, task.output.with_suffix(".jsonl")]
    stem = task.output.with_suffix("")
    return [formats.named(stem, kind) for kind in formats.SUFFIXES if kind in task.formats]


def _image_ids(tasks: Sequence[_Task], listed: Path | None) -> dict[_Task, int | str]:
    """The id of each image in `detections.json`: unique, and all of one type.

    Raises ValueError if ``listed`` is given and does not have one image of its own for each.
    """
    names = {task: task.output.stem for task in tasks}
    if listed is None:
        if not all(name.isdecimal() for name in names.values()):
            return names
        numbers = {task: int(name) for task, name in names.items()}
        return numbers if len(set(numbers.values())) == len(tasks) else names
    from maskrcnn_jax.data import annotations  # Without --ids it is not needed.

    known: dict[str, list[tuple[str, int]]] = {}
    for entry in annotations.read(listed).content["images"]:
        path = PurePath(entry["file_name"].replace("\\", "/"))
        known.setdefault(path.name, []).append((f"/{path}", entry["id"]))
    found: dict[_Task, list[int]] = {}
    for task in tasks:
        ids = known.get(task.path.name, [])
        if len(ids) > 1:  # The folders decide.
            ids = [x for x in ids if task.path.absolute().as_posix().endswith(x[0])]
        found[task] = [own for _, own in ids]
    missing = [str(task.path) for task, ids in found.items() if len(ids) != 1]
    if missing:
        named = ", ".join(missing[:5])
        raise ValueError(
            f"--ids {listed} has no id, or several, for {len(missing)} images: {named}"
        )
    if len({ids[0] for ids in found.values()}) < len(tasks):
        raise ValueError(f"--ids {listed} gives several of the images the same id")
    return {task: ids[0] for task, ids in found.items()}


def _plan(paths: Sequence[Path], output: Path, chosen: tuple[str, ...]) -> list[_Task]:
    """Names the output of each file."""
    tasks = []
    for path, name in zip(paths, _names(paths), strict=True):
        if inputs.is_video(path):
            task = _Task(path, output / f"{name}.mp4", _num_frames(path))
        else:
            task = _Task(path, output / f"{name}.png", 1, chosen)
        tasks.append(task)
    return tasks


def _names(paths: Sequence[Path]) -> list[str]:
    """File names without their suffixes; a number makes equal names differ."""
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
        return 0  # `_predict_video` reports the error.


def _predict_image(
    task: _Task, find: Find, detector: Detector, advance: Callable[[int], None]
) -> list[dict]:
    categories = detector.categories
    try:
        image = images.read_image(task.path, detector.num_channels, detector.data.image_dtype)
        found = find(image)
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
        advance(1)
    return results


def _predict_video(
    task: _Task, find: Find, detector: Detector, advance: Callable[[int], None]
) -> list[dict]:
    """Writes the video, and a line for each frame; returns no results: frames have no image id."""
    rate, categories = video.properties(task.path).rate, detector.categories
    lines_path = task.output.with_suffix(".jsonl")
    with video.write(task.output, rate) as append, open(lines_path, "w", encoding="utf-8") as lines:
        for number, frame in enumerate(video.read(task.path)):
            found = find(frame.image)
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


def _failure(task: _Task, error: Exception) -> str:
    """The message of a failed file. Raises the error again if the file is not its cause."""
    if isinstance(error, OSError):
        return str(error)  # The message names the file.
    if memory.ran_out(error):
        return f"{task.path}: {memory.explain(error)}"
    if isinstance(error, ValueError):
        return f"{task.path}: {error}"
    raise error


def _results(
    found: ImageDetections, image: np.ndarray, image_id: int | str, categories: Any
) -> list[dict]:
    results = coco_metrics.coco_results(found, image.shape[:2], image_id, categories.ids)
    names = [categories.name(label) for label in found.labels.tolist()]
    pairs = zip(results, names, strict=True)
    return [result | {"category_name": name} for result, name in pairs]


def _report(
    results: Sequence[dict],
    tasks: Sequence[_Task],
    failures: dict[_Task, str],
    args: argparse.Namespace,
) -> None:
    done = [task for task in tasks if task not in failures]
    num_videos = sum(inputs.is_video(task.path) for task in done)
    num_images = len(done) - num_videos
    if num_images or not num_videos:
        counts = f"{len(results)} objects in {num_images} images"
        written = [_WORDS[name] for name in formats.NAMES if name in args.formats]
        listed = " and ".join([", ".join(written[:-1]), written[-1]] if written[1:] else written)
        print(f"{counts}: {listed} are in {args.output}")
    if num_videos:
        files = "an .mp4 and a .jsonl with a line for each frame"
        print(f"videos: {num_videos}, in {args.output} {files}")
    if failures:
        failed = f"maskrcnn-jax predict: {len(failures)} of {len(tasks)} files failed:"
        print(failed, *map(plain, failures.values()), sep="\n  ", file=sys.stderr)
