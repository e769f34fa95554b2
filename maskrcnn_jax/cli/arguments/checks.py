"""The arguments of `parity` and `plan`."""

from typing import Any

from maskrcnn_jax.cli.arguments.common import WEIGHTS, add_force
from maskrcnn_jax.cli.arguments.types import (
    bucket,
    given,
    path,
    positive,
)

# `recipe.FAMILIES`: the families of `parity`, and their models with random weights.
RANDOM_MODELS = {
    "torchvision": ("v1", "v1-batch-norm", "v2", "faster-v1", "faster-v2", "convnext-tiny"),
    "detectron2": (
        *("detectron2_r50_fpn", "detectron2_r101_fpn", "detectron2_x101_32x8d_fpn"),
        *("detectron2_r50_fpn_gn", "detectron2_r50_fpn_syncbn", "detectron2_r50_fpn_lsj"),
        *("detectron2_vitdet_b", "detectron2_vitdet_l"),
        *("detectron2_cascade_r50_fpn", "detectron2_r50_c4", "detectron2_r50_dc5"),
    ),
    "mmdet": (
        *("mmdet_r50_fpn", "mmdet_r101_fpn"),
        *("mmdet_x101_32x4d_fpn", "mmdet_x101_64x4d_fpn", "mmdet_x101_32x8d_fpn"),
        *("mmdet_r50_caffe_fpn", "mmdet_r50_fpn_gn", "mmdet_cascade_r50_fpn"),
        "mmdet_r50_caffe_c4",
    ),
}


def add_parity(commands: Any) -> None:
    """Adds the command ``parity`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "parity",
        help="compare with torchvision, Detectron2 or MMDetection, which must be installed",
    )
    parser.add_argument("images", nargs="+", type=path, metavar="IMAGE")
    parser.add_argument(
        "--family",
        choices=tuple(RANDOM_MODELS),
        default="torchvision",
        help="the program to compare with (default: torchvision). The environment variable "
        "DETECTRON2 may name a checkout of Detectron2",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=given, metavar="W", help=WEIGHTS)
    weights.add_argument(
        "--random",
        choices=[name for names in RANDOM_MODELS.values() for name in names],
        metavar="MODEL",
        help="random weights of this model of the family: "
        + "; ".join(", ".join(names) for names in RANDOM_MODELS.values())
        + " (default: the first of the family)",
    )
    parser.add_argument("--seed", default=0, type=int, help="of the random weights (default: 0)")
    parser.add_argument(
        "--short-side", default=800, type=int, metavar="PX", help="of resized images (default: 800)"
    )
    parser.add_argument(
        "--max-long-side", default=1333, type=int, metavar="PX", help="at most (default: 1333)"
    )
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="write the report there as JSON, too"
    )
    add_force(parser, "FILE, whoever has written it, but never an image")


def add_plan(commands: Any) -> None:
    """Adds the command ``plan`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "plan", help="compile training or detection for other devices, and print its cost"
    )
    parser.add_argument(
        "--config", required=True, type=path, metavar="FILE", help="experiment, as for `train`"
    )
    devices = parser.add_mutually_exclusive_group(required=True)
    devices.add_argument(
        "--topology", metavar="T", help="TPU slice, such as v5e:16x16; needs libtpu, but no TPU"
    )
    devices.add_argument(
        "--gpu", metavar="NAME", help="h100 or h200; needs NVIDIA's compiler, but no card"
    )
    devices.add_argument(
        "--devices", type=positive, metavar="N", help="this machine's; simulated if it has fewer"
    )
    parser.add_argument(
        "--gpu-count", default=1, type=positive, metavar="N", help="of --gpu (default: 1)"
    )
    parser.add_argument(
        "--batch-per-device",
        type=positive,
        metavar="N",
        help="images (default: batch_size divided, or 1)",
    )
    parser.add_argument(
        "--program",
        default="train",
        choices=("train", "detect"),
        help="the training step (default), or detection",
    )
    parser.add_argument(
        "--stage",
        metavar="NAME",
        help="one stage of it, on one device, with its gradient in training: backbone, fpn, rpn, "
        "roi_align, box_head, mask_head, anchor_targets, proposals, roi_targets, mask_targets, "
        "detections",
    )
    parser.add_argument(
        "--cost",
        action="store_true",
        help="predict the time, by stage, kind and instruction",
    )
    parser.add_argument(
        "--bucket",
        type=bucket,
        metavar="HxW",
        help="of images (default: the first of data.buckets)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change the config: model.dtype=bfloat16",
    )
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="write the numbers there as JSON, too"
    )
    add_force(parser, "FILE, whoever has written it, but never the config")
