"""`maskrcnn-jax evaluate`: COCO box and mask AP of a training run or a weight file."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from rich.table import Table
from rich.text import Text

from maskrcnn_jax import config_check, evaluation, execution
from maskrcnn_jax.cli import config_file, in_use, outputs, progress
from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import checks, pipeline, sources
from maskrcnn_jax.data.annotations import without_images
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Dataset
from maskrcnn_jax.data.findings import plain_line
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.drawing import channels
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.report import page
from maskrcnn_jax.test_time_augmentation import AugmentedDetector
from maskrcnn_jax.weights import loading, reading
from maskrcnn_jax.xla import cache, compiler


def run(args: argparse.Namespace) -> int:
    """Evaluates a model, prints tables, and writes the results and an optional page.

    Returns:
        1 if images could not be read, which are then missing in the numbers and listed; else 0.
    """
    _check_report(args.report)
    chosen = config_file.read(args.config) if args.config else None
    cache.keep_compiled_programs()
    has_no_data = reading.is_released(args.weights) or Path(args.weights).is_file()
    if args.config is None and has_no_data:
        raise ValueError(
            f"{args.weights} does not say on which data: give --config FILE, or a run directory"
        )
    if args.report is not None:
        outputs.make_directory(args.report.absolute().parent, "the folder of --report")
    output = args.output or _run_directory(Path(args.weights)) or Path(".")
    outputs.check_directory(output)
    paths = [output / "evaluation.json", output / "detections.json"]
    paths += [args.report] if args.report is not None else []
    read = [args.weights, args.config] if Path(args.weights).is_file() else [args.config]
    claim = {"inputs": read, "force": args.force}
    is_run = (output / "config.json").is_file()
    held = in_use.hold(output) if is_run else contextlib.nullcontext()
    with held, outputs.claim("maskrcnn-jax evaluate", paths, **claim) as add:
        return _run(args, chosen, output, add)


def _run(
    args: argparse.Namespace,
    chosen: Config | None,
    output: Path,
    add: Callable[..., None],
) -> int:
    """Evaluates, once the call is checked; ``add`` is told of each output."""
    loaded = loading.load(args.weights)
    print(loaded.report)
    config = _combine(loaded.config, chosen) if chosen else loaded.config
    config_check.check(config)
    outputs.make_directory(output)
    categories = loaded.categories or Categories.numbered(config.model.num_classes - 1)
    has_masks = config.model.mask_head is not None
    needs = {"masks": has_masks, "num_channels": len(config.model.image_mean)}
    dataset, annotations = sources.open_val(config.data, categories, **needs)
    if not len(dataset):
        raise ValueError(f"data.val_annotations: {getattr(dataset, 'why_empty', 'no images')}")
    dataset, annotations, lost = _leave_out(dataset, annotations)
    run = execution.choose(config.execution)
    if run.small_on_cpu:
        compiler.return_memory_after_compiling()
    model = MaskRCNN(config.model, config.detection, run)
    variables = jax.device_put(loaded.variables)
    detector = Detector(model, variables, dataset.categories, config.data)
    evaluate = _evaluate_augmented if args.augment else _evaluate
    result = evaluate(detector, config, dataset, annotations, lost)
    add(output / "evaluation.json", output / "detections.json")
    evaluation.write(output, result)
    _print_tables(result, args.per_class)
    print(f"evaluation.json and detections.json are in {output}")
    if args.report is not None:
        add(args.report)
        shown = checks.without(dataset, result.missing)
        annotations = without_images(annotations, result.missing)
        _write_report(args, config, shown, annotations, result)
    return _report_lost(lost, len(dataset) + len(lost) - len(result.missing))


def _leave_out(dataset: Dataset, annotations: dict) -> tuple[Dataset, dict, dict[int, str]]:
    """Leaves out the images whose headers show that they cannot be used; returns the reasons too.

    Raises ValueError if these are more than half of the images.
    """
    if not hasattr(dataset, "check"):  # It has no files to look at.
        return dataset, annotations, {}
    with progress.images("check", len(dataset)) as advance:
        bad = checks.find_bad(dataset, advance=advance)
    checks.check_few(bad, len(dataset), "validation images")
    return checks.without(dataset, bad), without_images(annotations, bad), bad


def _report_lost(lost: dict[int, str], num_images: int) -> int:
    """Lists the images that are missing in the numbers; returns the exit code."""
    if not lost:
        return 0
    print(
        f"maskrcnn-jax evaluate: {len(lost)} of {num_images} images are missing in these numbers:",
        *checks.advise_once(lost.values()),
        sep="\n  ",
        file=sys.stderr,
    )
    return 1


def _check_report(path: Path | None) -> None:
    if path is not None and (path.is_dir() or path.suffix.lower() not in (".html", ".htm")):
        raise ValueError(f"--report has to be a file that ends in .html, got {path}")


def _run_directory(weights: Path) -> Path | None:
    """The run directory, or None if the weights are a file or the directory of one checkpoint."""
    is_checkpoint = weights.absolute().parent.name == "checkpoints"
    return weights if weights.is_dir() and not is_checkpoint else None


def _evaluate(
    detector: Detector,
    config: Config,
    dataset: Dataset,
    annotations: dict,
    lost: dict[int, str],
) -> evaluation.Evaluation:
    """Evaluates batches of images as training does, with the losses."""
    has_masks = config.model.mask_head is not None
    batches = pipeline.eval_batches(
        dataset, config.data, batch_size=config.test_batch_size, masks=has_masks, lost=lost
    )
    with progress.images("evaluate", len(dataset)) as advance:
        return evaluation.evaluate(
            detector.model,
            detector.variables,
            batches,
            annotations,
            detector.categories,
            config,
            advance=advance,
        )


def _evaluate_augmented(
    detector: Detector,
    config: Config,
    dataset: Dataset,
    annotations: dict,
    lost: dict[int, str],
) -> evaluation.Evaluation:
    """Evaluates each image in several views. A detector takes images of any size."""
    with progress.images("evaluate", len(dataset)) as advance:
        return evaluation.evaluate_images(
            AugmentedDetector(detector).detect,
            dataset,
            annotations,
            detector.categories,
            config.detection.num_detections,
            masks=config.model.mask_head is not None,
            lost=lost,
            advance=advance,
        )


def _write_report(
    args: argparse.Namespace,
    config: Config,
    dataset: Dataset,
    annotations: dict,
    result: evaluation.Evaluation,
) -> None:
    print("comparing detections with objects for the report ...")
    with progress.images("draw", min(page.MAX_DRAWN, len(dataset))) as advance:
        page.write(
            args.report,
            channels.Shown(dataset, config.data.shown_channels),
            annotations,
            result.detections,
            title=f"Evaluation of {args.weights}",
            max_detections=config.detection.num_detections,
            masks=result.segm is not None,
            advance=advance,
        )
    print(f"the report is {args.report}")


def _combine(trained: Config, chosen: Config) -> Config:
    """The trained config with the data, detection and execution settings of the chosen one.

    The rules for resizing images and for the final boxes and masks stay those of the weights.
    """
    data = dataclasses.replace(
        chosen.data, size_rule=trained.data.size_rule, resize=trained.data.resize
    )
    detection = dataclasses.replace(
        chosen.detection,
        clip_to_original=trained.detection.clip_to_original,
        paste=trained.detection.paste,
    )
    return dataclasses.replace(
        trained,
        data=data,
        detection=detection,
        execution=chosen.execution,
        test_batch_size=chosen.test_batch_size,
    )


def _print_tables(result: evaluation.Evaluation, per_class: bool) -> None:
    console = Console()
    console.print(_table("", {"box": result.bbox, "mask": result.segm}))
    if per_class:
        per_class_ap = {"box": result.bbox_per_class, "mask": result.segm_per_class}
        console.print(_table("AP of class", per_class_ap))
    if result.losses:
        losses = ", ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
        console.print(f"validation losses: {losses}")


def _table(title: str, columns: dict[str, dict[str, float] | None]) -> Table:
    """A table with a row for each name, and a column for each kind that has numbers."""
    columns = {kind: numbers for kind, numbers in columns.items() if numbers is not None}
    table = Table(title, *columns)
    for name in columns["box"]:
        values = [numbers[name] for numbers in columns.values()]
        shown = ("-" if value == -1 else f"{value:.3f}" for value in values)
        table.add_row(Text(plain_line(name)), *shown)
    return table
