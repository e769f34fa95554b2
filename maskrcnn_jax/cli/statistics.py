"""`maskrcnn-jax data statistics`: describes images and annotations by tables, and as a page."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from rich.table import Table
from rich.text import Text

from maskrcnn_jax import config_check
from maskrcnn_jax.cli import config_file, outputs, progress
from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import checks, statistics, summary
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.findings import named, plain, plain_line
from maskrcnn_jax.data.statistics import AnchorFit, Channels, Objects
from maskrcnn_jax.data.summary import Summary
from maskrcnn_jax.drawing import gallery
from maskrcnn_jax.ops import anchors
from maskrcnn_jax.report import statistics_page


class Found(NamedTuple):
    """All numbers of a data set."""

    channels: Channels
    summary: Summary
    objects: Objects
    sides: Float[np.ndarray, "n 2"]  # Of the boxes, in pixels after resizing.
    fit: AnchorFit
    odd: dict[str, list[Any]]  # Ids by what is odd.


def run(args: argparse.Namespace) -> int:
    """Prints tables and writes the page; returns 1 if images cannot be read, else 0."""
    config = config_file.read(args.config) if args.config else Config()
    for setting in args.set:
        config_file.override(config, setting)
    config_check.check(config)
    if args.report is not None and args.report.suffix != ".html":
        raise ValueError(f"--report has to be a file that ends in .html, got {args.report}")
    paths = [] if args.report is None else [args.report]
    read = [args.config, args.images, args.annotations]
    with outputs.claim("maskrcnn-jax data", paths, inputs=read, force=args.force) as add:
        dataset = CocoDataset(
            args.images, args.annotations, keep_empty=True, masks=False, image_dtype=None
        )
        given = len(config.model.image_mean) if args.config else None
        dataset.num_channels = args.channels or given or statistics.kind(dataset)[0]
        found, bad = _measure(dataset, config, args.count or len(dataset))
        _print(found, config)
        if args.report is not None:
            outputs.make_directory(args.report.absolute().parent, "the folder of --report")
            add(args.report)
            _write(args.report, found, config, args.annotations)
            print(f"the page is {args.report}")
    return _report(bad)


def _measure(dataset: CocoDataset, config: Config, count: int) -> tuple[Found, dict[int, str]]:
    if not len(dataset):
        raise ValueError(f"there are no images: {dataset.why_empty}")
    indices = gallery.evenly(len(dataset), count)
    with progress.images("statistics", len(indices)) as advance:
        channels, bad = statistics.channels(dataset, indices, advance)
    annotations = dataset.annotations()
    objects = statistics.objects(annotations)
    sides = statistics.resized_sides(objects, config.data)
    fit = statistics.anchor_fit(sides, np.concatenate(_anchors(config)))
    counts = summary.summarize(annotations, config.data.max_instances)
    slots = config.data.max_instances
    odd: dict[str, list[Any]] = {
        "images without objects": counts.empty,
        f"images with more than {slots} objects": counts.overfull,
        "annotations without extent": counts.dropped,
        "annotations without a mask": counts.unmasked,
        "annotations whose box does not fit the mask": counts.apart,
    }
    kinds = statistics.suspicious(objects, sides).items()
    odd |= {f"annotations with {kind}": ids for kind, ids in kinds}
    return Found(channels, counts, objects, sides, fit, odd), bad


def _anchors(config: Config) -> list[Float[np.ndarray, "r 2"]]:
    """Height and width of the anchors of each size."""
    rpn = config.model.rpn
    corners = [
        anchors.cell_anchors(size, rpn.aspect_ratios, rpn.round_anchors)
        for size in rpn.anchor_sizes
    ]
    return [(x[:, [3, 2]] - x[:, [1, 0]]).astype(np.float64) for x in corners]


def _print(found: Found, config: Config) -> None:
    console = Console()
    for title, head, rows in _tables(found, config):
        table = Table(*head, title=title, title_justify="left")
        for first, *cells in rows:
            table.add_row(Text(plain_line(first)), *cells)
        console.print(table)
    settings = _settings(found.channels)
    print("a model that starts from random weights needs these settings (trained weights need the")
    print("numbers of their training); in a config:")
    for field, value in settings.items():
        print(f"  config.{field} = {value}")
    print("or on the command line:")
    plain_values = {field: value.strip('"') for field, value in settings.items()}
    print(" ", " ".join(f"'--config.{field}={value}'" for field, value in plain_values.items()))


def _settings(channels: Channels) -> dict[str, str]:
    """The fields of a config for these images, with their values as Python writes them."""
    varies = channels.std > 1e-6 * np.abs(channels.mean)  # Others have rounding errors.
    settings = {
        "model.image_mean": _tuple(channels.mean),
        "model.image_std": _tuple(np.where(varies, channels.std, 1)),
    }
    dtype = {"data.image_dtype": '"float32"'} if channels.is_deep else {}
    return settings | dtype


def _tuple(values: Float[np.ndarray, " c"]) -> str:
    text = ", ".join(f"{value:.4g}" for value in values)
    return f"({text},)" if len(values) == 1 else f"({text})"


def _tables(found: Found, config: Config) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables of the terminal and of the page: title, head, rows of text."""
    channels, counts = found.channels, found.summary
    pairs = zip(channels.mean, channels.std, strict=True)
    sizes = found.objects.sizes
    per_image = np.bincount(found.objects.image, minlength=len(sizes))
    sides = np.sqrt(found.sides.prod(axis=1))
    spread = {
        "height of images": sizes[:, 0],
        "width of images": sizes[:, 1],
        "objects per image": per_image,
        "side of objects (root of area)": np.sqrt(_areas(found.objects)),
        "the same, images resized": sides,
    }
    quantiles = ["least", "10 %", "median", "90 %", "most", "mean"]
    return [
        (
            f"channels, over {channels.num_images} images, in the units of image_mean",
            ["channel", "mean", "std"],
            [[str(i), f"{mean:.4g}", f"{std:.4g}"] for i, (mean, std) in enumerate(pairs)],
        ),
        (
            f"{len(sizes)} images, {len(sides)} objects, {counts.num_crowds} crowds, in pixels",
            ["", *quantiles],
            [[name, *_quantiles(values)] for name, values in spread.items()],
        ),
        _anchor_table(found, config),
        (
            "categories",
            ["category", "id", "objects", "images"],
            [
                [x.name, *map(str, (x.category_id, x.num_instances, x.num_images))]
                for x in counts.categories
            ],
        ),
        (
            "what may be wrong",
            ["", "number", "first ids"],
            [[name, str(len(ids)), named(ids)] for name, ids in found.odd.items()],
        ),
    ]


def _areas(objects: Objects) -> Float[np.ndarray, " n"]:
    return (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)


def _quantiles(values: Float[np.ndarray, " n"] | Int[np.ndarray, " n"]) -> list[str]:
    if not len(values):
        return ["-"] * 6
    found = [*np.quantile(values, (0, 0.1, 0.5, 0.9, 1)), values.mean()]
    return [f"{value:,.1f}".removesuffix(".0") for value in found]


def _anchor_table(found: Found, config: Config) -> tuple[str, list[str], list[list[str]]]:
    """How the boxes of resized images fit the anchors of each size."""
    rpn = config.model.rpn
    bounds = sorted({0.5, rpn.positive_iou})
    size = found.fit.anchor // len(rpn.aspect_ratios)
    rows = []
    for position, own in [(i, size == i) for i in range(len(rpn.anchor_sizes))] + [
        (None, size >= 0)
    ]:
        shares = [np.count_nonzero(found.fit.overlap[own] >= bound) for bound in bounds]
        name = "all" if position is None else f"{rpn.anchor_sizes[position]:g}"
        rows.append([name, *map(str, (np.count_nonzero(own), *shares))])
    short, long = config.data.test_short_side, config.data.test_max_long_side
    title = f"objects by their best anchor, images resized to {short}, at most {long}"
    return title, ["anchor size", "objects", *(f"overlap {x:g}" for x in bounds)], rows


def _write(path: Path, found: Found, config: Config, annotations: Path) -> None:
    sides = np.sqrt(found.sides.prod(axis=1))
    ratios = found.sides[:, 0] / found.sides[:, 1]
    per_image = np.bincount(found.objects.image, minlength=len(found.objects.sizes))
    rpn = config.model.rpn
    tables, settings = _tables(found, config), _settings(found.channels)
    rows = [[field.partition(".")[2], value] for field, value in settings.items()]
    title = "settings of a model for these channels, from random weights"
    tables.insert(1, (title, ["field", "value"], rows))
    statistics_page.write(
        path,
        title=f"Statistics of {annotations.name}",
        tables=tables,
        charts=[
            statistics_page.counts("objects per image", per_image),
            statistics_page.octaves("side of objects in resized images", sides, rpn.anchor_sizes),
            statistics_page.octaves("height over width of objects", ratios, rpn.aspect_ratios),
            statistics_page.shares("overlap with the best anchor", found.fit.overlap),
        ],
    )


def _report(bad: dict[int, str]) -> int:
    for reason in checks.advise_once(bad.values()):
        print(f"left out of the channels: {plain(reason)}")
    return 1 if bad else 0
