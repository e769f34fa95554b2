"""`maskrcnn-jax export`: writes a detector to one file that runs without the model's code."""

import argparse

from maskrcnn_jax.artifacts import export
from maskrcnn_jax.cli import outputs
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.weights import loading


def run(args: argparse.Namespace) -> int:
    """Reads a run directory or weights, writes the artifact, and prints its inputs; returns 0."""
    outputs.check_file(args.output)
    claim = {"inputs": [args.weights], "force": args.force}
    with outputs.claim("maskrcnn-jax export", [args.output], **claim) as add:
        loaded = loading.load(args.weights)
        print(loaded.report)
        detector = Detector.from_loaded(loaded)
        sizes = args.size or detector.data.test_buckets
        add(args.output)
        export.export(
            detector,
            args.output,
            sizes=sizes,
            batch_size=args.batch,
            dtype=args.input,
            score_threshold=args.score_threshold,
        )
    megabytes = args.output.stat().st_size / 1e6
    names = ", ".join(f"{height}x{width}" for height, width in sizes)
    print(f"written: {args.output} ({megabytes:.0f} MB), for {', '.join(export.PLATFORMS)}")
    print(f"it takes {args.input} images, {args.batch} at a time, of {names}")
    return 0
