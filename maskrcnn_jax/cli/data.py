"""`maskrcnn-jax data`: looking at images and their annotations, and writing them into a few large files."""

import argparse

from maskrcnn_jax.cli import browse, progress
from maskrcnn_jax.data import coco_instances, prepared
from maskrcnn_jax.data.coco import CocoDataset


def run(args: argparse.Namespace) -> int:
    """Does what the action says, and returns the exit code."""
    return {"browse": browse.run, "prepare": prepare}[args.action](args)


def prepare(args: argparse.Namespace) -> int:
    """Writes one split, unless that was done before; returns 0."""
    folder = prepared.folder(args.output, args.split)
    if coco_instances.is_prepared(args.annotations, args.split, args.output):
        print(f"nothing to do: {folder} was prepared from {args.annotations} before")
        return 0
    dataset = CocoDataset(args.images, args.annotations, keep_empty=True)
    with progress.images("prepare", len(dataset)) as advance:
        coco_instances.prepare(dataset, args.split, args.output, advance)
    print(f"{len(dataset)} images are in {folder}")
    print(f"to use them: --config.data.source=tfds --config.data.tfds_dir={args.output}")
    return 0
