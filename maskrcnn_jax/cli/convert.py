"""`maskrcnn-jax convert`: rewrites a model in another file format, or for another library."""

import argparse
from pathlib import Path
from typing import Any

from maskrcnn_jax.cli import movement, outputs
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.weights import (
    detectron2_config,
    differences,
    files,
    loading,
    mmdetection_config,
    norm_eps,
    saving,
    translation,
)
from maskrcnn_jax.weights.loading import LoadedModel
from maskrcnn_jax.weights.translation import Translation

PROGRAMS = {"torchvision": "torchvision", "detectron2": "Detectron2", "mmdet": "MMDetection"}


def run(args: argparse.Namespace) -> int:
    """Reads a run directory or weights, writes one file, and prints a report; returns 0."""
    _check(args)
    read = [args.weights, args.d2_config, args.mmdet_config, *args.images]
    claim = {"inputs": read, "force": args.force}
    with outputs.claim("maskrcnn-jax convert", [args.output], **claim) as add:
        loaded = loading.load(args.weights, **_choices(args))
        print(loaded.report)
        if args.to is None:
            add(args.output)
            model = loaded.config, loaded.variables, loaded.categories
            saving.save(args.output, *model, consume=True)
            _print_written(args.output, loaded)
        else:
            _write_for(args, loaded, add)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises OSError or ValueError for mistakes in the call, before weights are read."""
    if args.to is None and args.images:
        raise ValueError("--images needs --to: other files hold all rules, so nothing moves")
    missing = [str(path) for path in args.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no image {', '.join(missing)}")
    suffixes = files.SUFFIXES if args.to is None else translation.SUFFIXES[args.to]
    if args.output.suffix not in suffixes:
        hint = ""
        if args.to is None:
            hint = f"; --to {' or '.join(translation.SUFFIXES)} writes files of other libraries"
        raise ValueError(f"{args.output} must end in one of {', '.join(suffixes)}{hint}")
    outputs.check_file(args.output)


def _choices(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `loading.load` for what a file does not say."""
    if args.d2_config is not None:
        config, channel_order = detectron2_config.read(args.d2_config)
    elif args.mmdet_config is not None:
        config, channel_order = mmdetection_config.read(args.mmdet_config)
    else:
        return {"preset": args.preset, "channel_order": args.channel_order}
    return {"preset": config, "channel_order": args.channel_order or channel_order}


def _print_written(output: Path, loaded: LoadedModel) -> None:
    names = "our names" if output.suffix == ".npz" else "torchvision's names"
    print(f"written: {output}, with {names}")
    if output.suffix != ".npz":
        _print_norm_eps(loaded.report.norm_eps)


def _print_norm_eps(found: dict[str, norm_eps.NormEps]) -> None:
    """Prints the norms whose eps torchvision's builders set otherwise: state dicts hold no eps."""
    for value in sorted({value for value, _ in found.values()} - {norm_eps.DEFAULT}):
        parts = ", ".join(name for name, eps in found.items() if eps.value == value)
        print(
            f"torchvision builds norms with eps {norm_eps.DEFAULT:g}: "
            f"set theirs to {value:g} in {parts} for the same outputs"
        )


def _write_for(args: argparse.Namespace, loaded: LoadedModel, add: Any) -> None:
    """Writes a file for another library, with a report on what it cannot hold."""
    translated = translation.translate(loaded, args.to)
    moved = _movement(loaded, translated, args.images) if args.images else None
    if translated.variables is not loaded.variables:
        loaded.variables.clear()  # From here on the translation alone holds the arrays.
    add(args.output)
    translation.write(args.output, translated, consume=True)
    program = PROGRAMS[args.to]
    print(f"written: {args.output}, for {program}")
    for note in translated.notes:
        print(note)
    print(_rules(translated, program))
    if moved is not None:
        print(moved)


def _rules(translated: Translation, program: str) -> str:
    """The table of rules, with a sentence on it."""
    if not translated.differences:
        return f"no rule differs from {translated.base}: {program} detects the same"
    introduction = f"no file holds these rules, which differ from {translated.base} of {program}:"
    return f"{introduction}\n{differences.table(translated.differences, translated.base)}"


def _movement(loaded: LoadedModel, translated: Translation, images: list[Path]) -> str:
    """Detects with the rules of the model and with those of the library.

    Rules that can be set there count as set.
    """
    if not translated.moves:
        return "with all of these set, detections do not move"
    there = _detector(translated.config, translated.variables, translated.categories)
    here = _detector(loaded.config, loaded.variables, loaded.categories)
    found = movement.measure(here, there, images)
    introduction = "detections with all of these set, but for what cannot be set:"
    return f"{introduction}\n{movement.to_markdown(found)}"


def _detector(config: Config, variables: dict[str, Any], categories: Categories | None) -> Detector:
    return Detector.from_loaded(LoadedModel(config, variables, categories, None))
