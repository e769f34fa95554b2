"""Starts the command `maskrcnn-jax`, also as `python -m maskrcnn_jax`."""

import sys

from maskrcnn_jax.cli import interrupts


def main() -> None:
    """Runs the command of this process, and exits with its code."""
    interrupts.end_at_once()
    from maskrcnn_jax.cli.main import main as run  # Imported late, to be interrupted quietly.

    code = run()
    interrupts.end_at_once()
    sys.exit(code)


if __name__ == "__main__":
    main()
