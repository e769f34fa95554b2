"""`python -m maskrcnn_jax`, which is `maskrcnn-jax`."""

import sys

from maskrcnn_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
