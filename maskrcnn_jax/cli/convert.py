"""`maskrcnn-jax convert`: one model from one form to another."""

import argparse

from maskrcnn_jax.cli import outputs
from maskrcnn_jax.weights import files, loading, saving


def run(args: argparse.Namespace) -> int:
    """Reads a run directory or weights, writes one file, and prints what was found; returns 0."""
    if args.output.suffix not in files.SUFFIXES:
        raise ValueError(f"{args.output} must end in one of {', '.join(files.SUFFIXES)}")
    if args.output.exists() and not args.force:
        raise ValueError(f"{args.output} exists; --force replaces it")
    outputs.check_file(args.output)
    loaded = loading.load(args.weights)
    print(loaded.report)
    saving.save(args.output, loaded.config, loaded.variables, loaded.categories)
    names = "our names" if args.output.suffix == ".npz" else "torchvision's names"
    print(f"written: {args.output}, with {names}")
    if args.output.suffix != ".npz" and loaded.report.norm_eps != loading.DEFAULT_EPS:
        eps = loaded.report.norm_eps
        print(f"torchvision builds norms with eps {loading.DEFAULT_EPS:g}: set theirs to {eps:g} for the same outputs")
    return 0
