"""`maskrcnn-jax parity`: compares with torchvision on images, stage by stage and detection by detection."""

import argparse
import json
import sys
from typing import Any

from maskrcnn_jax import cache
from maskrcnn_jax.cli import outputs, progress
from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.parity import comparison, recipe, report
from maskrcnn_jax.parity.ours import Ours
from maskrcnn_jax.weights import loading, torchvision


def run(args: argparse.Namespace) -> int:
    """Prints the tables, in Markdown, and writes them as JSON on request; returns 1 if they fall short, else 0.

    Mistakes, such as an image that cannot be read or torch that is not installed, are 2.
    """
    cache.keep_compiled_programs()
    try:
        from maskrcnn_jax.parity import reference
    except ImportError as error:
        print(f"maskrcnn-jax parity: {error}", file=sys.stderr)
        return 2
    missing = [str(path) for path in args.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no image {', '.join(missing)}")
    if args.short_side < 32 or args.max_long_side < args.short_side:
        raise ValueError(f"sides must be at least 32 and ascending, got {args.short_side} and {args.max_long_side}")
    if args.output:
        outputs.check_file(args.output)
    title, config, variables = _model(args)
    sizes = {"short_side": args.short_side, "max_long_side": args.max_long_side}
    model = reference.build(config, torchvision.to_state_dict(variables, config), **sizes)
    comparer = comparison.Comparer(model, Ours(config, variables, **sizes), reference.predict)
    with progress.images("parity", 2 * len(args.images)) as advance:
        result = comparison.run(comparer, args.images, title=title, advance=advance)
    print(report.to_markdown(result), end="")
    if args.output:
        args.output.write_text(json.dumps(report.to_dict(result), indent=1) + "\n")
    return 0 if result.passed else 1


def _model(args: argparse.Namespace) -> tuple[str, ModelConfig, dict[str, Any]]:
    """What to call the weights, the configuration they belong to, and the weights."""
    if args.random:
        config = recipe.config(args.random)
        state = recipe.state_dict(config, args.seed)
        return f"{args.random}, random weights of seed {args.seed}", config, torchvision.from_state_dict(state, config)
    loaded = loading.load(args.weights)
    return str(args.weights), loaded.config.model, loaded.variables
