"""Runs the command `maskrcnn-jax` for `python -m maskrcnn_jax`."""

import sys

from maskrcnn_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
