"""`maskrcnn-jax data browse`: draws annotated images, also as training augments them."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table
from rich.text import Text

from maskrcnn_jax import config_check, resizing, settings, visualize, whole_files
from maskrcnn_jax.cli import config_file, outputs, progress
from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data import checks, sources, statistics, summary, transforms
from maskrcnn_jax.data.dataset import AnnotatedDataset, Dataset
from maskrcnn_jax.data.findings import plain_line
from maskrcnn_jax.data.pack import pack
from maskrcnn_jax.data.summary import Summary
from maskrcnn_jax.drawing import channels, gallery
from maskrcnn_jax.ops.rounding import ceil_div

_COLUMNS = 4  # Drawings in a row of a page: with augmentation, an image and its three views.
_DRAWINGS_PER_PAGE = 12
_NUM_NAMED = 10  # Ids listed in the summary.


def run(args: argparse.Namespace) -> int:
    """Writes pages of drawings, or one file for each image, and prints a summary.

    Returns:
        1 if an image cannot be read, else 0.
    """
    config = _config(args)
    settings.check_fields(config)
    dataset, data_config = _open(config, args), config.data
    config_check.check(config)
    annotations = dataset.annotations()
    chosen = _choose(args, dataset, annotations)
    names = [f"page-{number + 1:03}.png" for number in range(_num_pages(args, chosen))]
    if args.separate:
        names = [f"{int(dataset.image_ids[index])}.png" for index in chosen]
    paths = [args.output / name for name in names]
    train, val = data_config.train_images, data_config.val_images
    read = [args.config, train, val, data_config.train_annotations, data_config.val_annotations]
    read += [path for entry in data_config.train for path in entry[:2] if path]
    with outputs.claim("maskrcnn-jax data", paths, inputs=read, force=args.force) as add:
        outputs.make_directory(args.output)
        crowds = _crowds(annotations)
        failures, num_removed = _draw(args, dataset, chosen, crowds, data_config, add)
    for reason in checks.advise_once(failures):
        print(f"maskrcnn-jax data: {reason}", file=sys.stderr)
    left_out = args.split == "train" and not data_config.keep_empty
    slots = data_config.max_instances
    counts = summary.summarize(annotations, slots, data_config.keep_rule)
    _print(counts, slots, left_out)
    num_drawn = len(chosen) - len(failures)
    if args.augmented:
        num_views = num_drawn * (_COLUMNS - 1)
        print(f"{num_removed} objects were cut off or hidden in {num_views} views of training")
    print(f"{num_drawn} of {len(dataset)} images are drawn in {args.output}")
    return 1 if failures else 0


def _num_pages(args: argparse.Namespace, chosen: list[int]) -> int:
    """The most pages that the drawings of the chosen images can fill."""
    return ceil_div(len(chosen) * (_COLUMNS if args.augmented else 1), _DRAWINGS_PER_PAGE)


def _config(args: argparse.Namespace) -> Config:
    folder = args.images is not None or args.annotations is not None
    if (args.config is None) != folder or (folder and None in (args.images, args.annotations)):
        raise ValueError("give either --config FILE, or --images DIR and --annotations JSON")
    if args.augmented and args.split == "val":
        raise ValueError("--augmented shows the images of training: leave --split val out")
    config = config_file.read(args.config) if args.config else Config()
    if folder:
        data = config.data
        data.train_images = data.val_images = str(args.images)
        data.train_annotations = data.val_annotations = str(args.annotations)
        data.keep_empty = True
    for setting in args.set:
        config_file.override(config, setting)
    return config


def _open(config: Config, args: argparse.Namespace) -> AnnotatedDataset:
    """Opens the images. Without --config, the images tell the number and the type of channels."""
    num_channels = len(config.model.image_mean) if args.config else None
    if args.split == "val":
        return sources.open_val(config.data, num_channels=num_channels)[0]
    dataset = sources.open_train(config.data, num_channels=num_channels)
    if not args.config:
        num_channels, config.data.image_dtype = statistics.kind(dataset)
        config.model.image_mean = config.model.image_std = (0.5,) * num_channels
        dataset.num_channels, dataset.image_dtype = num_channels, config.data.image_dtype
    return dataset


def _choose(args: argparse.Namespace, dataset: Dataset, annotations: dict[str, Any]) -> list[int]:
    """Positions of the images to draw: those asked for, or a sample spread over the data set."""
    position = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
    if args.image_id:
        missing = [image_id for image_id in args.image_id if image_id not in position]
        if missing:
            raise ValueError(
                f"no image has the id {missing[0]}, or it has no object and is not trained on"
            )
        return [position[image_id] for image_id in args.image_id]
    candidates = list(position.values())
    if args.category is not None:
        names = dataset.categories.names
        if args.category not in names:
            raise ValueError(
                f"no category is called {args.category!r}; there are {', '.join(names)}"
            )
        pairs = zip(dataset.categories.ids, names, strict=True)
        chosen = {category_id for category_id, name in pairs if name == args.category}
        entries = annotations["annotations"]
        having = {entry["image_id"] for entry in entries if entry["category_id"] in chosen}
        candidates = [index for image_id, index in position.items() if image_id in having]
    if not candidates:
        why = "" if len(dataset) else f": {getattr(dataset, 'why_empty', 'the set is empty')}"
        raise ValueError(f"there are no images to draw{why}")
    return [candidates[i] for i in gallery.evenly(len(candidates), args.count)]


def _crowds(annotations: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The crowd annotations of each image, by image id."""
    crowds = defaultdict(list)
    for annotation in annotations["annotations"]:
        if annotation.get("iscrowd", 0):
            crowds[annotation["image_id"]].append(annotation)
    return crowds


def _draw(
    args: argparse.Namespace,
    dataset: Dataset,
    chosen: list[int],
    crowds: dict[int, list[dict[str, Any]]],
    data_config: DataConfig,
    add: Callable[..., None],
) -> tuple[list[str], int]:
    """Writes the drawings, and tells ``add``.

    Returns:
        Why images failed, and the number of objects that augmentation removed.
    """
    page, num_pages, failures, num_removed = [], 0, [], 0
    with progress.images("browse", len(chosen)) as advance:
        for index in chosen:
            image_id = int(dataset.image_ids[index])
            try:
                own = crowds.get(image_id, [])
                drawings, removed = _drawings(dataset, index, own, args, data_config)
                num_removed += removed
            except (OSError, ValueError) as error:
                drawings = []
                failures.append(str(error))
            if args.separate and drawings:
                add(args.output / f"{image_id}.png")
                _save(args.output / f"{image_id}.png", drawings)
            elif not args.separate:
                page += drawings
            if len(page) >= _DRAWINGS_PER_PAGE or (page and index == chosen[-1]):
                num_pages += 1
                add(args.output / f"page-{num_pages:03}.png")
                _save(args.output / f"page-{num_pages:03}.png", page)
                page = []
            advance(1)
    return failures, num_removed


def _drawings(
    dataset: Dataset,
    index: int,
    crowds: list[dict[str, Any]],
    args: argparse.Namespace,
    data_config: DataConfig,
) -> tuple[list[gallery.Drawing], int]:
    """Draws an image with its annotations and, on request, three augmented views of it.

    Returns:
        The drawings, and the number of objects that the views have lost.
    """
    example, shown = dataset[index], data_config.shown_channels
    drawn = example._replace(image=channels.rgb(example.image, shown))
    drawings = [gallery.annotated(drawn, crowds, dataset.categories, args.side)]
    num_removed, stages = 0, transforms.standard(data_config, dataset)
    for view in range(1, _COLUMNS) if args.augmented else ():
        seed = (view, example.image_id % 2**32)  # An id may be negative, a seed may not.
        sample = transforms.train_sample(example, seed, data_config, stages)
        sample = sample._replace(image=channels.rgb(sample.image, shown))
        row = pack(sample, resizing.ceil32(sample.image.shape[:2]), data_config)
        drawings.append(gallery.varied(row, dataset.categories, f"view {view}", args.side))
        num_removed += int(row.num_removed)
    return drawings, num_removed


def _save(path: Path, drawings: list[gallery.Drawing]) -> None:
    sheet = Image.fromarray(visualize.contact_sheet(drawings, _COLUMNS))
    with whole_files.replacing(path) as temporary:
        sheet.save(temporary)


def _print(counts: Summary, slots: int, left_out: bool) -> None:
    """Prints the counts of categories, images and problems.

    Args:
        counts: The summary of the data set.
        slots: The number of instance slots of an image.
        left_out: Whether training skips images without objects.
    """
    table = Table("category", "id", "objects", "images")
    for count in counts.categories:
        numbers = count.category_id, count.num_instances, count.num_images
        table.add_row(Text(plain_line(count.name)), *map(str, numbers))
    console = Console()
    console.print(table)
    lines = {
        "images": str(counts.num_images),
        "objects": str(counts.num_instances),
        "crowds, not trained on": str(counts.num_crowds),
        "images without objects" + (", not trained on" if left_out else ""): _named(counts.empty),
        "annotations without extent, dropped": _named(counts.dropped),
        "annotations without a mask, not trained on": _named(counts.unmasked),
        "annotations whose box does not fit the mask": _named(counts.apart),
        f"images with more than {slots} objects, {counts.num_surplus} too many": _named(
            counts.overfull
        ),
    }
    table = Table(show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    console.print(table)


def _named(ids: list[int]) -> str:
    """The number of ids, and the first few of them."""
    if not ids:
        return "0"
    rest = ", ..." if len(ids) > _NUM_NAMED else ""
    return f"{len(ids)}: id {', '.join(map(str, ids[:_NUM_NAMED]))}{rest}"
