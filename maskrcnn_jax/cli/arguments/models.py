"""The arguments of the commands that write a model: `convert`, `export`, `push`."""

from typing import Any

from maskrcnn_jax.cli.arguments.common import MAX_BATCH_SIZE, WEIGHTS, add_force
from maskrcnn_jax.cli.arguments.types import (
    bucket,
    fraction,
    given,
    path,
    up_to,
)


def add_convert(commands: Any) -> None:
    """Adds the command ``convert`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "convert", help="write weights for this program, torchvision, Detectron2 or MMDetection"
    )
    parser.add_argument("weights", type=given, metavar="IN", help=WEIGHTS)
    parser.add_argument(
        "output",
        type=path,
        metavar="OUT",
        help=".pth or .safetensors with torchvision's names, .npz with ours; with --to detectron2 "
        ".pkl or .pth, with --to mmdet .pth",
    )
    parser.add_argument(
        "--to",
        choices=("torchvision", "detectron2", "mmdet"),
        help="write a file that this library loads, and list the rules that no file holds",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        type=path,
        metavar="IMAGE",
        help="with --to: also measure how far the detections of these images move",
    )
    add_force(parser, "OUT, whoever has written it, but never an input")
    rules = parser.add_mutually_exclusive_group()
    rules.add_argument(
        "--d2-config",
        type=path,
        metavar="FILE",
        help="the config.yaml of a file of Detectron2: take its settings instead of inferring them",
    )
    rules.add_argument(
        "--mmdet-config",
        type=path,
        metavar="FILE",
        help="the same for MMDetection: a config as its tools print it; it is not run",
    )
    rules.add_argument(
        "--preset",
        metavar="NAME",
        help="of a file of Detectron2 or MMDetection, such as mmdet_r50_caffe_fpn: take its pixel "
        "statistics, strides and rules instead of inferring them",
    )
    parser.add_argument(
        "--channel-order",
        choices=("RGB", "BGR"),
        help="in which the network of such a file reads its channels",
    )


def add_export(commands: Any) -> None:
    """Adds the command ``export`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "export", help="write a model that runs without this program's code, on any device"
    )
    parser.add_argument("--weights", required=True, type=given, metavar="W", help=WEIGHTS)
    parser.add_argument("output", type=path, metavar="OUT", help="ends in .npz")
    parser.add_argument(
        "--size",
        action="append",
        type=bucket,
        metavar="HxW",
        help="of padded images, multiples of 32; may be given several times "
        "(default: data.test_buckets of the model)",
    )
    parser.add_argument(
        "--batch",
        default=1,
        type=up_to(MAX_BATCH_SIZE),
        metavar="N",
        help="images at once (default: 1)",
    )
    parser.add_argument(
        "--input",
        default="float32",
        choices=("float32", "uint8"),
        help="of images (default: float32, in [0, 1])",
    )
    parser.add_argument(
        "--score-threshold",
        type=fraction,
        metavar="S",
        help="where the caller gives none (default: the model's)",
    )
    add_force(parser, "OUT, whoever has written it, but never an input")


def add_push(commands: Any) -> None:
    """Adds the command ``push`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "push", help="upload the model of a run to the Hugging Face Hub, with a card"
    )
    parser.add_argument(
        "run", type=path, metavar="RUN", help="a run directory, or one of its checkpoints"
    )
    parser.add_argument("repository", type=given, metavar="OWNER/NAME", help="made if it is absent")
    parser.add_argument(
        "--license", metavar="ID", help="of the model, for its card, such as apache-2.0"
    )
    parser.add_argument(
        "--private", action="store_true", help="a repository that is made here is private"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the card, and upload nothing")
