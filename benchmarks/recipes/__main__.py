"""Runs a recipe once, with one program and one seed, and adds its numbers to a file.

    python -m benchmarks.recipes --recipe comparison --program torchvision --seed 0 \\
        --data data --start resnet50_keras.npz --runs runs/recipes

A run that was stopped goes on by the same command: ours from its last checkpoint, torchvision's
from its last saved state. A run that the file already has is not repeated. Stop other programs
first: the minutes are wall time.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.recipes import results, settings
from maskrcnn_jax import distributed
from maskrcnn_jax.cli import training_loop
from maskrcnn_jax.config import Config
from maskrcnn_jax.config_check import check
from maskrcnn_jax.evaluation import Evaluation
from maskrcnn_jax.xla import cache


def run(args: argparse.Namespace) -> None:
    """Runs a recipe, or what is left of it, and adds its entry."""
    key = args.recipe, args.program, args.seed
    if results.find(results.read(args.results), *key):
        print(f"{args.results} has {args.recipe} of {args.program} with seed {args.seed} already")
        return
    workdir = args.runs / f"{args.recipe}_{args.program}_{args.seed}"
    config = settings.recipe(args.recipe, args.seed, args.data, args.start, workdir)
    check(config)
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        with session(workdir):
            result = _trainer(args.program)(config, workdir)
    except distributed.Preempted as reason:
        print(f"{reason.name}: {reason}; the same command goes on from there")
        sys.exit(reason.code)
    entry = results.entry(*key, config.num_steps, result, workdir)
    results.add(args.results, entry)
    print(f"{args.recipe}, {args.program}, seed {args.seed}: mask AP {entry['segm']['AP']:.4f}")


def _trainer(program: str) -> Callable[[Config, Path], Evaluation]:
    if program == "torchvision":
        from benchmarks.recipes import peer  # Only this side needs torch.

        return peer.train
    cache.keep_compiled_programs()
    return training_loop.train


@contextlib.contextmanager
def session(workdir: Path) -> Iterator[None]:
    """Records that a session began, and at its end how long it was."""

    def write(**values: Any) -> None:
        with (workdir / "sessions.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    write(begun=time.strftime("%Y-%m-%dT%H:%M:%S"))
    start = time.monotonic()
    try:
        yield
    finally:
        write(seconds=round(time.monotonic() - start, 1))


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, and runs a recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", required=True, choices=settings.NAMES)
    parser.add_argument("--program", default="ours", choices=("ours", "torchvision"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--start", required=True, help="weights of the backbone, or of a detector")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="run directories")
    parser.add_argument("--results", type=Path, default=results.FILE, help="file of results")
    run(parser.parse_args(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
