"""`maskrcnn-jax predict`: finds objects in images and videos, and draws them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from maskrcnn_jax import video, whole_files
from maskrcnn_jax.cli import formats, inputs, outputs, predictions, progress
from maskrcnn_jax.cli.predictions import Find, Task
from maskrcnn_jax.cli.streams import number
from maskrcnn_jax.data import checks
from maskrcnn_jax.data.findings import plain
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.detector_inputs import checked_top_k
from maskrcnn_jax.xla import cache, compiler

# The files about all images, and their formats.
_OF_ALL = {"detections.json": "coco", formats.MEASUREMENTS: "csv"}
_WORDS = {
    "picture": "drawn images",
    "coco": "detections.json",
    "geojson": ".geojson files",
    "labels": "pictures of labels",
    "csv": formats.MEASUREMENTS,
}


def run(args: argparse.Namespace) -> int:
    """Draws each image and writes `detections.json` for all; returns the exit code.

    The code is 1 if a file failed, and 2 if all of them did; then no file about all images is
    written.

    --formats chooses what is written for images: `formats.NAMES`.

    `detections.json` is in COCO's results format, with "file_name" and "category_name" added. It
    has no "segmentation" if the model has no mask head. The image ids are those of --ids, or the
    file names without their suffixes; these become numbers, as in COCO, if all of them are numbers
    and differ. A video becomes an .mp4, and a .jsonl with one line for each frame.
    """
    cache.keep_compiled_programs()
    if args.overlap is not None and args.tile is None:
        raise ValueError("--overlap is that of tiles: give --tile too")
    tasks = _plan(args)
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
    tasks: Sequence[Task],
    image_ids: dict[Task, int | str],
    add: Callable[..., None],
) -> int:
    """Predicts all files; ``add`` is told of each output."""
    detector = _load(args)
    if detector.model.run.small_on_cpu:
        compiler.return_memory_after_compiling()
    find = _finder(args, detector)
    outputs.make_directory(args.output)
    results, failures = [], {}
    try:
        num_parts = sum(task.num_parts for task in tasks)
        unit = "images" if args.tile is None else "windows"
        with progress.images("predict", num_parts, unit) as advance:
            for task in tasks:
                add(*_outputs(task))
                is_video = inputs.is_video(task.path)
                predict = predictions.of_video if is_video else predictions.of_image
                try:
                    found = predict(task, find, detector, advance)
                    results += [result | {"image_id": image_ids[task]} for result in found]
                except (OSError, ValueError, MemoryError, RuntimeError) as error:
                    failures[task] = predictions.failure(task, error)
    finally:  # Keeps the detections made before an interruption.
        if not _all_failed(tasks, failures):
            _write_all(results, args.output, args.formats, add)
    _report(results, tasks, failures, args)
    if _all_failed(tasks, failures):
        return 2
    return 1 if failures else 0


def _all_failed(tasks: Sequence[Task], failures: dict[Task, str]) -> bool:
    """Whether nothing came of any file. A video that breaks off keeps the frames before that."""
    has_frames = any(inputs.is_video(task.path) and task.num_parts for task in tasks)
    return len(failures) == len(tasks) and not has_frames


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


def _finder(args: argparse.Namespace, detector: Detector) -> Find:
    """The function that detects, by tiles if asked. A wrong argument fails here, not per image."""
    if args.tile is None:
        checked_top_k(args.top_k, detector.model.detection.num_detections)
        return lambda image, _: detector.detect(image, args.score_threshold, args.top_k)
    tiled = detector.tiled(args.tile, _overlap(args))
    return lambda image, advance: tiled.detect(
        image, args.score_threshold, args.top_k, advance=advance
    )


def _overlap(args: argparse.Namespace) -> float:
    return 0.25 if args.overlap is None else args.overlap


def _outputs(task: Task) -> list[Path]:
    """The files that are written for a task."""
    if inputs.is_video(task.path):
        return [task.output, task.output.with_suffix(".jsonl")]
    stem = task.output.with_suffix("")
    return [formats.named(stem, kind) for kind in formats.SUFFIXES if kind in task.formats]


def _image_ids(tasks: Sequence[Task], listed: Path | None) -> dict[Task, int | str]:
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
    found: dict[Task, list[int]] = {}
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


def _plan(args: argparse.Namespace) -> list[Task]:
    """Names the output of each file."""
    paths, tasks = inputs.expand(args.images), []
    for path, name in zip(paths, _names(paths), strict=True):
        if inputs.is_video(path):
            task = Task(path, args.output / f"{name}.mp4", _num_frames(path))
        else:
            task = Task(path, args.output / f"{name}.png", 1, args.formats)
            task = task if args.tile is None else _tiled(task, args)
        tasks.append(task)
    return tasks


def _tiled(task: Task, args: argparse.Namespace) -> Task:
    """The task of an image that is cut into tiles. Large images are not drawn."""
    from maskrcnn_jax.tiling import detector, files, windows

    detector.check_overlap(_overlap(args))
    try:
        height, width = files.size(task.path)
    except OSError:
        return task._replace(is_tiled=True)  # Reading it reports the error.
    num_parts = len(windows.cover((height, width), args.tile, _overlap(args)))
    task = task._replace(is_tiled=True, num_parts=num_parts)
    if height * width <= files.LARGE:
        return task
    chosen = tuple(name for name in task.formats if name not in ("picture", "labels"))
    if not chosen:
        raise ValueError(f"{task.path} is too large to be drawn: give --formats coco")
    return task._replace(formats=chosen)


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
        return 0  # `predictions.of_video` reports the error.


def _report(
    results: Sequence[dict],
    tasks: Sequence[Task],
    failures: dict[Task, str],
    args: argparse.Namespace,
) -> None:
    done = [task for task in tasks if task not in failures]
    num_videos = sum(inputs.is_video(task.path) for task in done)
    num_images = len(done) - num_videos
    if num_images or not (num_videos or failures):
        counts = f"{number(len(results), 'object')} in {number(num_images, 'image')}"
        written = [_WORDS[name] for name in formats.NAMES if name in args.formats]
        listed = " and ".join([", ".join(written[:-1]), written[-1]] if written[1:] else written)
        print(f"{counts}: {listed} are in {args.output}")
    if num_videos:
        files = "an .mp4 and a .jsonl with a line for each frame"
        print(f"videos: {num_videos}, in {args.output} {files}")
    if failures:
        failed = f"maskrcnn-jax predict: {len(failures)} of {len(tasks)} files failed:"
        reasons = map(plain, checks.advise_once(failures.values()))
        print(failed, *reasons, sep="\n  ", file=sys.stderr)
