"""The command `maskrcnn-jax`: parses the arguments, and calls the module of the command."""

import argparse
import importlib
import sys
from collections.abc import Sequence

import maskrcnn_jax
from maskrcnn_jax.cli import ignored_errors, interrupts, memory, streams
from maskrcnn_jax.cli.arguments import checks, data, detection, models
from maskrcnn_jax.data.findings import plain


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    0 means success, 1 that an image or a check failed, and 2 a mistake in the call.
    """
    streams.be_lenient()
    ignored_errors.handle()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["train"]:  # Its flags are absl's, which `_parser` cannot read.
        train = importlib.import_module("maskrcnn_jax.cli.train")
        interrupts.raise_again()
        train.run(train.NAME, arguments[1:])
    args = _parser().parse_args(arguments)
    args.arguments = arguments  # `plan` may start them again, in a process of its own.
    message = ""
    try:
        # Imported late, so that --help does not wait for jax.
        command = importlib.import_module(f"maskrcnn_jax.cli.{args.command}")
        interrupts.raise_again()
        code = command.run(args)
    except (OSError, ValueError) as error:
        message, code = streams.explain(error), 2
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
        message, code = memory.explain(error), 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130  # The code that shells give for SIGINT.
    if unwritten := streams.flush():
        message, code = unwritten, 2
    if message:
        print(f"maskrcnn-jax {args.command}: {plain(message)}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    """Parses the arguments of all commands."""
    description = "Mask R-CNN in JAX. `maskrcnn-jax COMMAND --help` explains a command."
    parser = argparse.ArgumentParser(prog="maskrcnn-jax", description=description)
    parser.add_argument(
        "--version", action="version", version=f"maskrcnn-jax {maskrcnn_jax.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Listed here only; `main` passes its arguments on.
    commands.add_parser("train", help="train a model, and evaluate it", add_help=False)
    detection.add_predict(commands)
    detection.add_evaluate(commands)
    models.add_convert(commands)
    models.add_export(commands)
    models.add_push(commands)
    detection.add_serve(commands)
    checks.add_parity(commands)
    checks.add_plan(commands)
    data.add_data(commands)
    commands.add_parser("doctor", help="print versions, devices and problems for a bug report")
    return parser
