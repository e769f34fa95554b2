"""`maskrcnn-jax data`: draws, splits and prepares images and their annotations."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from maskrcnn_jax.cli import browse, outputs, progress
from maskrcnn_jax.data import coco_instances, prepared, splitting
from maskrcnn_jax.data.coco import CocoDataset


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action, and returns its exit code."""
    return {"browse": browse.run, "prepare": prepare, "split": split}[args.action](args)


def split(args: argparse.Namespace) -> int:
    """Checks annotations, writes train.json and val.json, and counts both; returns 0."""
    names = ("train.json", "val.json")
    _check_outputs([args.output / name for name in names], args.annotations, args.force)
    annotations = CocoDataset(
        args.images, args.annotations, keep_empty=True, masks=False
    ).annotations()
    parts = dict(zip(names, splitting.split(annotations, args.fraction, args.seed), strict=True))
    outputs.make_directory(args.output)
    table = Table("", *parts)
    table.add_row("images", *(str(len(part["images"])) for part in parts.values()))
    for category in annotations["categories"]:
        counts = {name: splitting.count(part, category["id"]) for name, part in parts.items()}
        table.add_row(category["name"], *map(str, counts.values()))
        for name in (name for name, number in counts.items() if not number):
            print(f"{name} has no {category['name']}: try another --seed, or label more images")
    Console().print(table)
    for name, part in parts.items():
        (args.output / name).write_text(json.dumps(part), encoding="utf-8")
    print(f"train.json and val.json are in {args.output}")
    return 0


def _check_outputs(paths: Sequence[Path], annotations: Path, force: bool) -> None:
    """Raises ValueError if an output exists and may not be replaced.

    The annotations are never replaced.
    """
    for path in filter(Path.exists, paths):
        if annotations.exists() and path.samefile(annotations):
            raise ValueError(
                f"{path} would overwrite the file of --annotations: "
                "give another directory as --output"
            )
        if not force:
            raise ValueError(f"{path} exists; --force replaces it")


def prepare(args: argparse.Namespace) -> int:
    """Writes one split, unless it is there already; returns 0."""
    folder = prepared.folder(args.output, args.split)
    if coco_instances.is_prepared(args.annotations, args.split, args.output):
        print(f"nothing to do: {folder} was prepared from {args.annotations} before")
        return 0
    outputs.make_directory(args.output)
    dataset = CocoDataset(args.images, args.annotations, keep_empty=True, masks=False)
    with progress.images("prepare", len(dataset)) as advance:
        coco_instances.prepare(dataset, args.split, args.output, advance)
    print(f"{len(dataset)} images are in {folder}")
    print(f"to use them: --config.data.source=tfds --config.data.tfds_dir={args.output}")
    return 0
