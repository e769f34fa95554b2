"""`maskrcnn-jax convert`: rewrites a model in another file format."""

import argparse
from typing import Any

from maskrcnn_jax.cli import outputs
from maskrcnn_jax.weights import (
    detectron2_config,
    files,
    loading,
    mmdetection_config,
    norm_eps,
    saving,
)


def run(args: argparse.Namespace) -> int:
    """Reads a run directory or weights, writes one file, and prints a report; returns 0."""
    if args.output.suffix not in files.SUFFIXES:
        raise ValueError(f"{args.output} must end in one of {', '.join(files.SUFFIXES)}")
    outputs.check_file(args.output)
    read = [args.weights, args.d2_config, args.mmdet_config]
    claim = {"inputs": read, "force": args.force}
    with outputs.claim("maskrcnn-jax convert", [args.output], **claim) as add:
        loaded = loading.load(args.weights, **_choices(args))
        print(loaded.report)
        add(args.output)
        saving.save(args.output, loaded.config, loaded.variables, loaded.categories)
    names = "our names" if args.output.suffix == ".npz" else "torchvision's names"
    print(f"written: {args.output}, with {names}")
    if args.output.suffix != ".npz":
        _print_norm_eps(loaded.report.norm_eps)
    return 0


def _choices(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `loading.load` for what a file does not say."""
    if args.d2_config is not None:
        config, channel_order = detectron2_config.read(args.d2_config)
    elif args.mmdet_config is not None:
        config, channel_order = mmdetection_config.read(args.mmdet_config)
    else:
        return {"preset": args.preset, "channel_order": args.channel_order}
    return {"preset": config, "channel_order": args.channel_order or channel_order}


def _print_norm_eps(found: dict[str, norm_eps.NormEps]) -> None:
    """Prints the norms whose eps torchvision's builders set otherwise: state dicts hold no eps."""
    for value in sorted({value for value, _ in found.values()} - {norm_eps.DEFAULT}):
        parts = ", ".join(name for name, eps in found.items() if eps.value == value)
        print(
            f"torchvision builds norms with eps {norm_eps.DEFAULT:g}: "
            f"set theirs to {value:g} in {parts} for the same outputs"
        )
