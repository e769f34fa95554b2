"""`maskrcnn-jax data`: the actions on images and their annotations."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from rich.table import Table
from rich.text import Text

from maskrcnn_jax import whole_files
from maskrcnn_jax.cli import browse, convert_data, in_use, outputs, progress, statistics
from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.data import checks, coco_instances, prepared, splitting
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.findings import plain_line


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action, and returns its exit code."""
    actions = {"convert": convert_data.run, "browse": browse.run, "split": split}
    actions |= {"check": check, "prepare": prepare, "statistics": statistics.run}
    return actions[args.action](args)


def split(args: argparse.Namespace) -> int:
    """Checks images and annotations, writes train.json and val.json, and counts both.

    Returns:
        1 if images cannot be used, which are then left out of both files and listed; else 0.
    """
    names = ("train.json", "val.json")
    paths = [args.output / name for name in names]
    claim = {"inputs": [args.annotations], "force": args.force}
    with outputs.claim("maskrcnn-jax data", paths, **claim) as add:
        dataset, bad = _open(args)
        annotations = dataset.annotations()
        files = {int(own): dataset.path(i) for i, own in enumerate(dataset.image_ids)}
        try:
            same = splitting.photographs(files)
            parts = splitting.split(annotations, args.fraction, args.seed, same)
        except ValueError as error:
            raise ValueError("; ".join([str(error), *checks.advise_once(bad.values())])) from error
        outputs.make_directory(args.output)
        add(*paths)
        with contextlib.ExitStack() as stack:  # Both or none: parts of two splits may overlap.
            for path, part in zip(paths, parts, strict=True):
                temporary = stack.enter_context(whole_files.replacing(path))
                temporary.write_text(json.dumps(part), encoding="utf-8")
    _print_parts(dict(zip(names, parts, strict=True)), annotations["categories"])
    print(f"train.json and val.json are in {args.output}")
    return _report(bad, len(dataset) + len(bad))


def _print_parts(parts: dict[str, dict], categories: list[dict]) -> None:
    """Prints the number of images, and of objects of each category, of every part."""
    table = Table("", *parts)
    table.add_row("images", *(str(len(part["images"])) for part in parts.values()))
    for category in categories:
        counts = {name: splitting.count(part, category["id"]) for name, part in parts.items()}
        shown = plain_line(category["name"])
        table.add_row(Text(shown), *map(str, counts.values()))
        for name in (name for name, number in counts.items() if not number):
            print(f"{name} has no {shown}: try another --seed, or label more images")
    Console().print(table)


def check(args: argparse.Namespace) -> int:
    """Looks at all images, and lists those that cannot be used; returns 1 if there are any."""
    dataset = _dataset(args)
    with progress.images("check", len(dataset)) as advance:
        bad = checks.find_bad(dataset, whole=not args.headers, advance=advance)
    looked = "headers" if args.headers else "pixels"
    print(f"{len(dataset) - len(bad)} of {len(dataset)} images can be used, by their {looked}")
    return _report(bad, len(dataset))


def prepare(args: argparse.Namespace) -> int:
    """Writes one split, unless it is there already.

    Returns:
        1 if images cannot be used, which are then left out and listed; else 0.
    """
    folder = prepared.folder(args.output, args.split)
    if coco_instances.is_prepared(args.annotations, args.split, args.output):
        print(f"nothing to do: {folder} was prepared from {args.annotations} before")
        return 0
    outputs.make_directory(args.output / args.split)
    with in_use.hold(args.output / args.split):
        return _prepare(args, folder)


def _prepare(args: argparse.Namespace, folder: Path) -> int:
    dataset, bad = _open(args, whole=True)
    with progress.images("prepare", len(dataset)) as advance:
        coco_instances.prepare(dataset, args.split, args.output, advance)
    print(f"{len(dataset)} images are in {folder}")
    print(f"to use them: --config.data.source=tfds --config.data.tfds_dir={args.output}")
    return _report(bad, len(dataset) + len(bad))


def _open(args: argparse.Namespace, whole: bool = False) -> tuple[CocoDataset, dict[int, str]]:
    """Opens the images that can be used, and gives the reasons for the others by their ids.

    Raises ValueError if more than half of them cannot be used.
    """
    dataset = _dataset(args)
    with progress.images("check", len(dataset)) as advance:
        bad = checks.find_bad(dataset, whole=whole, advance=advance)
    checks.check_few(bad, len(dataset), f"images of {args.annotations}")
    return dataset.without(bad), bad


def _dataset(args: argparse.Namespace) -> CocoDataset:
    """All images and objects, with any number of channels."""
    any_pixels = {"num_channels": None, "image_dtype": None}
    return CocoDataset(args.images, args.annotations, keep_empty=True, masks=False, **any_pixels)


def _report(bad: dict[int, str], num_images: int) -> int:
    """Lists images that cannot be used; returns the exit code."""
    if not bad:
        return 0
    told = f"maskrcnn-jax data: {len(bad)} of {num_images} images cannot be used:"
    print(told, *checks.advise_once(bad.values()), sep="\n  ", file=sys.stderr)
    return 1
