"""`maskrcnn-jax parity`: compares each stage and each detection with torchvision on images."""

import argparse
import json
import sys
from typing import Any

from maskrcnn_jax import whole_files
from maskrcnn_jax.cli import outputs, progress
from maskrcnn_jax.config import Config
from maskrcnn_jax.parity import comparison, recipe, report
from maskrcnn_jax.parity.jax_model import JaxModel
from maskrcnn_jax.weights import loading, torchvision
from maskrcnn_jax.xla import cache, compiler


def run(args: argparse.Namespace) -> int:
    """Prints the tables in Markdown, and writes the report as JSON on request.

    Returns:
        0 if the comparison passes, 1 if it fails, 2 if torch is not installed.
    """
    cache.keep_compiled_programs()
    try:
        from maskrcnn_jax.parity import reference
    except ImportError as error:
        print(f"maskrcnn-jax parity: {error}", file=sys.stderr)
        return 2
    _check(args)
    title, config, variables = _model(args)
    sizes = {"short_side": args.short_side, "max_long_side": args.max_long_side}
    state = torchvision.to_state_dict(variables, config.model)
    jax_model = JaxModel(config, variables, **sizes)
    if jax_model.model.run.small_on_cpu:
        compiler.return_memory_after_compiling()
    model = reference.build(config, state, **sizes)
    comparer = comparison.Comparer(model, jax_model, reference.predict)
    with progress.images("parity", 2 * len(args.images)) as advance:
        result = comparison.run(comparer, args.images, title=title, advance=advance)
    print(report.to_markdown(result), end="")
    if args.output:
        with outputs.claim("maskrcnn-jax parity", [args.output], force=args.force) as add:
            add(args.output)
            text = json.dumps(report.to_dict(result), indent=1) + "\n"
            whole_files.write_text(args.output, text)
    return 0 if result.passed else 1


def _check(args: argparse.Namespace) -> None:
    """Raises OSError or ValueError for mistakes in the call, before anything is computed."""
    missing = [str(path) for path in args.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no image {', '.join(missing)}")
    if args.short_side < 32 or args.max_long_side < args.short_side:
        sides = f"{args.short_side} and {args.max_long_side}"
        raise ValueError(f"sides must be at least 32 and ascending, got {sides}")
    if args.output:
        outputs.check_file(args.output)
        outputs.check("maskrcnn-jax parity", [args.output], inputs=args.images, force=args.force)


def _model(args: argparse.Namespace) -> tuple[str, Config, dict[str, Any]]:
    """The title of the weights, their config, and their variables."""
    if not args.random:
        loaded = loading.load(args.weights)
        return str(args.weights), loaded.config, loaded.variables
    config = recipe.config(args.random)
    variables = torchvision.from_state_dict(recipe.state_dict(config, args.seed), config)
    title = f"{args.random}, random weights of seed {args.seed}"
    return title, Config(model=config), variables
