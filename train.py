"""Trains Mask R-CNN, evaluates it, and saves everything in a run directory.

    python train.py --config=configs/shapes.py --workdir=runs/shapes
    python train.py --config=configs/r50_fpn_1x.py --workdir=runs/r50 --config.seed=1

This is the command `maskrcnn-jax train`, for a checkout; ``--help`` explains the flags. To read on:

    maskrcnn_jax/cli/train.py          flags, messages and exit codes
    maskrcnn_jax/cli/training_loop.py  the loop: `train` reads from top to bottom
    maskrcnn_jax/training.py           one step: losses, gradients, optimizer
    maskrcnn_jax/config.py             every field that --config.FIELD=VALUE may set;
    maskrcnn_jax/model_config.py       those of the network
"""

import sys

from maskrcnn_jax.cli import train

if __name__ == "__main__":
    train.run("train.py", sys.argv[1:])
