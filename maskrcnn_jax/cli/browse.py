"""`maskrcnn-jax data browse`: draws annotated images, as they are and as training varies them, and counts them."""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from maskrcnn_jax import config_check, gallery, visualize
from maskrcnn_jax.cli import config_file, outputs, progress
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data import pipeline, sources, summary
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.summary import Summary

_COLUMNS = 4  # Of a page; with augmentation, an image and its views fill a row.
_PICTURES_PER_PAGE = 12
_NUM_NAMED = 10  # Ids in the summary.


def run(args: argparse.Namespace) -> int:
    """Writes pages, or a file for each image, and prints a summary; returns 1 if an image cannot be read, else 0."""
    data_config = _data_config(args)
    dataset, annotations = _open(data_config, args.split)
    chosen = _choose(args, dataset, annotations)
    outputs.make_directory(args.output)
    num_failed = _draw(args, dataset, chosen, _crowds(annotations), data_config)
    left_out = args.split == "train" and not data_config.keep_empty
    _print(summary.summarize(annotations, data_config.max_instances), data_config.max_instances, left_out)
    print(f"{len(chosen) - num_failed} of {len(dataset)} images are drawn in {args.output}")
    return 1 if num_failed else 0


def _data_config(args: argparse.Namespace) -> DataConfig:
    folder = args.images is not None or args.annotations is not None
    if (args.config is None) != folder or (folder and None in (args.images, args.annotations)):
        raise ValueError("give either --config FILE, or --images DIR and --annotations JSON")
    if args.augmented and args.split == "val":
        raise ValueError("--augmented shows what training makes of its images: leave --split val out")
    config = config_file.read(args.config) if args.config else Config()
    if folder:
        data = config.data
        data.train_images = data.val_images = str(args.images)
        data.train_annotations = data.val_annotations = str(args.annotations)
        data.keep_empty = True
    for setting in args.set:
        config_file.override(config, setting)
    config_check.check(config)
    return config.data


def _open(data_config: DataConfig, split: str) -> tuple[sources.Dataset, dict[str, Any]]:
    """A split and its annotations as they were written, crowds included."""
    dataset = sources.open_val(data_config)[0] if split == "val" else sources.open_train(data_config)
    if isinstance(dataset, CocoDataset):
        return dataset, json.loads(dataset.annotation_file.read_text(encoding="utf-8"))
    return dataset, dataset.annotations()


def _choose(args: argparse.Namespace, dataset: sources.Dataset, annotations: dict[str, Any]) -> list[int]:
    """Positions of the images to draw: those asked for, or some that are spread over the set."""
    position = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
    if args.image_id:
        missing = [image_id for image_id in args.image_id if image_id not in position]
        if missing:
            raise ValueError(f"no image has the id {missing[0]}, or it is left out of training for having no object")
        return [position[image_id] for image_id in args.image_id]
    candidates = list(position.values())
    if args.category is not None:
        names = dataset.categories.names
        if args.category not in names:
            raise ValueError(f"no category is called {args.category!r}; there are {', '.join(names)}")
        chosen = {i for i, name in zip(dataset.categories.ids, names, strict=True) if name == args.category}
        having = {a["image_id"] for a in annotations["annotations"] if a["category_id"] in chosen}
        candidates = [index for image_id, index in position.items() if image_id in having]
    if not candidates:
        raise ValueError("there are no images to draw")
    return [candidates[i] for i in gallery.evenly(len(candidates), args.count)]


def _crowds(annotations: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The crowds of every image, by its id."""
    crowds = defaultdict(list)
    for annotation in annotations["annotations"]:
        if annotation.get("iscrowd", 0):
            crowds[annotation["image_id"]].append(annotation)
    return crowds


def _draw(
    args: argparse.Namespace,
    dataset: sources.Dataset,
    chosen: list[int],
    crowds: dict[int, list[dict[str, Any]]],
    data_config: DataConfig,
) -> int:
    """Writes the pictures, and returns how many images could not be drawn."""
    page, num_pages, num_failed = [], 0, 0
    with progress.images("browse", len(chosen)) as advance:
        for index in chosen:
            image_id = int(dataset.image_ids[index])
            try:
                pictures = _pictures(dataset, index, crowds.get(image_id, []), args, data_config)
            except (OSError, ValueError) as error:
                print(f"maskrcnn-jax data: {error}", file=sys.stderr)
                pictures, num_failed = [], num_failed + 1
            if args.separate and pictures:
                _save(args.output / f"{image_id}.png", pictures)
            elif not args.separate:
                page += pictures
            if len(page) >= _PICTURES_PER_PAGE or (page and index == chosen[-1]):
                num_pages += 1
                _save(args.output / f"page-{num_pages:03}.png", page)
                page = []
            advance(1)
    return num_failed


def _pictures(
    dataset: sources.Dataset,
    index: int,
    crowds: list[dict[str, Any]],
    args: argparse.Namespace,
    data_config: DataConfig,
) -> list[gallery.Picture]:
    """An image as it is annotated and, on request, in several random views of training."""
    example = dataset[index]
    pictures = [gallery.annotated(example, crowds, dataset.categories, args.side)]
    for view in range(1, _COLUMNS) if args.augmented else ():
        rng = np.random.default_rng((view, example.image_id % 2**32))  # A seed cannot be negative, an id can.
        sample = pipeline.train_sample(example, rng, data_config)
        store = data_config.mask_store
        pictures.append(gallery.varied(sample, dataset.categories, f"view {view}", args.side, mask_store=store))
    return pictures


def _save(path: Path, pictures: list[gallery.Picture]) -> None:
    Image.fromarray(visualize.contact_sheet(pictures, _COLUMNS)).save(path)


def _print(counts: Summary, slots: int, left_out: bool) -> None:
    """Tables of the categories and of the rest; images without objects may be left out of training."""
    table = Table("category", "id", "objects", "images")
    for count in counts.categories:
        table.add_row(count.name, *map(str, (count.category_id, count.num_instances, count.num_images)))
    console = Console()
    console.print(table)
    lines = {
        "images": str(counts.num_images),
        "objects": str(counts.num_instances),
        "crowds, not trained on": str(counts.num_crowds),
        "images without objects" + (", not trained on" if left_out else ""): _named(counts.empty),
        "annotations without extent, dropped": _named(counts.dropped),
        "annotations whose box does not fit the mask": _named(counts.apart),
        f"images with more than {slots} objects, {counts.num_surplus} too many": _named(counts.overfull),
    }
    table = Table(show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    console.print(table)


def _named(ids: list[int]) -> str:
    """How many there are, and the first ids."""
    if not ids:
        return "0"
    rest = ", ..." if len(ids) > _NUM_NAMED else ""
    return f"{len(ids)}: id {', '.join(map(str, ids[:_NUM_NAMED]))}{rest}"
