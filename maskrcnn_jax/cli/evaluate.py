"""`maskrcnn-jax evaluate`: COCO box and mask AP of a training run or a weight file."""

import argparse
import dataclasses
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from maskrcnn_jax import cache, config_check, evaluation
from maskrcnn_jax.cli import config_file, outputs, progress
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import pipeline, sources
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.report import page
from maskrcnn_jax.test_time_augmentation import AugmentedDetector
from maskrcnn_jax.weights import loading


def run(args: argparse.Namespace) -> int:
    """Evaluates, prints tables, writes `evaluation.json`, `detections.json` and, if asked for, a page; returns 0."""
    if args.report is not None and (args.report.is_dir() or args.report.suffix.lower() not in (".html", ".htm")):
        raise ValueError(f"--report has to be a file that ends in .html, got {args.report}")
    chosen = config_file.read(args.config) if args.config else None
    cache.keep_compiled_programs()
    # One checkpoint of a run is no place for results.
    is_run = Path(args.weights).is_dir() and Path(args.weights).absolute().parent.name != "checkpoints"
    if args.config is None and (args.weights in loading.RELEASED or Path(args.weights).is_file()):
        raise ValueError(f"{args.weights} does not say on which data: give --config FILE, or a run directory")
    if args.report is not None:
        outputs.make_directory(args.report.absolute().parent, "the folder of --report")
    loaded = loading.load(args.weights)
    print(loaded.report)
    config = _combine(loaded.config, chosen) if chosen else loaded.config
    config_check.check(config)
    output = args.output or Path(args.weights if is_run else ".")
    outputs.make_directory(output)
    categories = loaded.categories or Categories.numbered(config.model.num_classes - 1)
    dataset, annotations = sources.open_val(config.data, categories)
    if not len(dataset):
        raise ValueError("the validation set has no images")
    model, variables = MaskRCNN(config.model), jax.device_put(loaded.variables)
    if args.augment:
        detector = Detector(model, variables, categories, config.data)
        result = _evaluate_augmented(detector, dataset, annotations)
    else:
        batches = pipeline.eval_batches(dataset, config.data, batch_size=config.test_batch_size)
        with progress.images("evaluate", len(dataset)) as advance:
            result = evaluation.evaluate(model, variables, batches, annotations, categories, config, advance=advance)
    evaluation.write(output, result)
    _print_tables(result, args.per_class)
    print(f"evaluation.json and detections.json are in {output}")
    if args.report is not None:
        _write_report(args, config, dataset, annotations, result.detections)
    return 0


def _evaluate_augmented(detector: Detector, dataset: sources.Dataset, annotations: dict) -> evaluation.Evaluation:
    """Looks at every picture in several views; of any size, since a detector needs no bucket for it."""
    detect, slots = AugmentedDetector(detector).detect, detector.model.config.detection.num_detections
    with progress.images("evaluate", len(dataset)) as advance:
        return evaluation.evaluate_pictures(detect, dataset, annotations, detector.categories, slots, advance=advance)


def _write_report(
    args: argparse.Namespace, config: Config, dataset: sources.Dataset, annotations: dict, detections: list[dict]
) -> None:
    print("comparing detections with objects for the report ...")
    with progress.images("draw", min(page.MAX_PICTURED, len(dataset))) as advance:
        page.write(
            args.report,
            dataset,
            annotations,
            detections,
            title=f"Evaluation of {args.weights}",
            max_detections=config.model.detection.num_detections,
            advance=advance,
        )
    print(f"the report is {args.report}")


def _combine(trained: Config, chosen: Config) -> Config:
    """The trained network, with the data and the detection settings of another config."""
    model = dataclasses.replace(trained.model, detection=chosen.model.detection)
    return dataclasses.replace(trained, model=model, data=chosen.data, test_batch_size=chosen.test_batch_size)


def _print_tables(result: evaluation.Evaluation, per_class: bool) -> None:
    console = Console()
    console.print(_table("", result.bbox, result.segm))
    if per_class:
        console.print(_table("AP of class", result.bbox_per_class, result.segm_per_class))
    if result.losses:
        losses = ", ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
        console.print(f"validation losses: {losses}")


def _table(title: str, bbox: dict[str, float], segm: dict[str, float]) -> Table:
    table = Table(title, *("box", "mask"))
    for name in bbox:
        table.add_row(name, *("-" if value == -1 else f"{value:.3f}" for value in (bbox[name], segm[name])))
    return table
