"""`maskrcnn-jax export`: a detector as one file that runs without the code of the model."""

import argparse

from maskrcnn_jax import export
from maskrcnn_jax.cli import outputs
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.weights import loading


def run(args: argparse.Namespace) -> int:
    """Reads a run directory or weights, writes the artifact, and prints what it takes; returns 0."""
    if args.output.exists() and not args.force:
        raise ValueError(f"{args.output} exists; --force replaces it")
    outputs.check_file(args.output)
    loaded = loading.load(args.weights)
    print(loaded.report)
    detector = Detector.from_loaded(loaded)
    sizes = args.size or detector.data.test_buckets
    settings = {"batch_size": args.batch, "dtype": args.input, "score_threshold": args.score_threshold}
    export.export(detector, args.output, sizes=sizes, **settings)
    megabytes = args.output.stat().st_size / 1e6
    names = ", ".join(f"{height}x{width}" for height, width in sizes)
    print(f"written: {args.output} ({megabytes:.0f} MB), for {', '.join(export.PLATFORMS)}")
    print(f"it takes {args.input} images, {args.batch} at a time, of {names}")
    return 0
