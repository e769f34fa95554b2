"""The command `maskrcnn-jax`: parses the arguments, and calls the module of the command."""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import maskrcnn_jax
from maskrcnn_jax.cli import memory

WEIGHTS = (
    "directory of a training run, or of one of its checkpoints (RUN/checkpoints/STEP); or a weight "
    "file of ours, torchvision, Detectron2 or MMDetection (.npz, .pth, .safetensors, .pkl); or "
    "COCO_V1 or V2_COCO_V1: torchvision's maskrcnn_resnet50_fpn and maskrcnn_resnet50_fpn_v2, "
    "downloaded once; or a name such as detectron2:mask_rcnn_R_50_FPN_3x or "
    "mmdet:mask-rcnn_r50_fpn_1x_coco"
)
AUGMENT = "join the detections of every image in three sizes and mirrored: slower, and more exact"
RANDOM_MODELS = ("v1", "v1-batch-norm", "v2", "faster-v1", "faster-v2")  # `recipe.VARIANTS`.

_MAX_BATCH_SIZE = 1024  # A batch of images of usual sizes already takes gigabytes.
_MAX_SIDE = 4096  # Pixels: a page of twelve such images takes over half a gigabyte.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    0 means success, 1 that an image or a check failed, and 2 a mistake in the call.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    args.arguments = list(arguments)  # `plan` may start them again, in a process of its own.
    # Imported late, so that --help does not wait for jax.
    command = importlib.import_module(f"maskrcnn_jax.cli.{args.command}")
    try:
        return command.run(args)
    except (OSError, ValueError) as error:
        message, code = str(error), 2
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
        message, code = memory.explain(error), 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130  # The code that shells give for SIGINT.
    print(f"maskrcnn-jax {args.command}: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    """Parses the arguments of all commands."""
    description = (
        "Mask R-CNN in JAX: all but training, which `python train.py` does in the checkout."
    )
    parser = argparse.ArgumentParser(prog="maskrcnn-jax", description=description)
    parser.add_argument(
        "--version", action="version", version=f"maskrcnn-jax {maskrcnn_jax.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_evaluate(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_parity(commands)
    _add_plan(commands)
    _add_data(commands)
    return parser


def _add_predict(commands: Any) -> None:
    parser = commands.add_parser("predict", help="find objects in images and videos, and draw them")
    parser.add_argument(
        "images",
        nargs="+",
        type=_given,
        metavar="IMAGE",
        help="or a video, a folder of them, or a pattern such as 'photos/**/*.jpg'",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=_given, metavar="W", help=WEIGHTS)
    source.add_argument(
        "--artifact", type=_path, metavar="FILE", help="instead: a file of `maskrcnn-jax export`"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=_path,
        metavar="DIR",
        help="for drawings and detections.json",
    )
    parser.add_argument(
        "--score-threshold",
        default=0.5,
        type=_fraction,
        metavar="S",
        help="from 0 to 1 (default: 0.5)",
    )
    parser.add_argument("--augment", action="store_true", help=AUGMENT)
    parser.add_argument(
        "--top-k", type=_positive, metavar="N", help="at most so many objects per image, the best"
    )


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate", help="measure COCO box and mask AP on a validation set"
    )
    parser.add_argument("--weights", required=True, type=_given, metavar="W", help=WEIGHTS)
    parser.add_argument(
        "--config",
        type=_path,
        metavar="FILE",
        help="take data, detection and execution from this one; weights need it",
    )
    parser.add_argument("--augment", action="store_true", help=AUGMENT)
    parser.add_argument("--per-class", action="store_true", help="also the AP of each class")
    parser.add_argument(
        "--output",
        type=_path,
        metavar="DIR",
        help="for the json files (default: the run directory, or this one)",
    )
    parser.add_argument(
        "--report",
        type=_path,
        metavar="FILE",
        help="write a page with tables, curves and drawings there (.html)",
    )


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser(
        "convert", help="write weights for torchvision, or for this program"
    )
    parser.add_argument("weights", type=_given, metavar="IN", help=WEIGHTS)
    parser.add_argument(
        "output",
        type=_path,
        metavar="OUT",
        help=".pth or .safetensors with torchvision's names, .npz with ours",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    rules = parser.add_mutually_exclusive_group()
    rules.add_argument(
        "--d2-config",
        type=_path,
        metavar="FILE",
        help="the config.yaml of a file of Detectron2: take its settings instead of inferring them",
    )
    rules.add_argument(
        "--mmdet-config",
        type=_path,
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


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export", help="write a model that runs without this program's code, on any device"
    )
    parser.add_argument("--weights", required=True, type=_given, metavar="W", help=WEIGHTS)
    parser.add_argument("output", type=_path, metavar="OUT", help="ends in .npz")
    parser.add_argument(
        "--size",
        action="append",
        type=_bucket,
        metavar="HxW",
        help="of padded images, multiples of 32; may be given several times "
        "(default: data.test_buckets of the model)",
    )
    parser.add_argument(
        "--batch",
        default=1,
        type=_up_to(_MAX_BATCH_SIZE),
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
        type=_fraction,
        metavar="S",
        help="where the caller gives none (default: the model's)",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _add_parity(commands: Any) -> None:
    parser = commands.add_parser(
        "parity", help="compare with torchvision, which must be installed, and report"
    )
    parser.add_argument("images", nargs="+", type=_path, metavar="IMAGE")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--weights", type=_given, metavar="W", help=WEIGHTS)
    weights.add_argument("--random", choices=RANDOM_MODELS, help="random weights of this model")
    parser.add_argument("--seed", default=0, type=int, help="of the random weights (default: 0)")
    parser.add_argument(
        "--short-side", default=800, type=int, metavar="PX", help="of resized images (default: 800)"
    )
    parser.add_argument(
        "--max-long-side", default=1333, type=int, metavar="PX", help="at most (default: 1333)"
    )
    parser.add_argument(
        "--output", type=_path, metavar="FILE", help="write the report there as JSON, too"
    )


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan", help="compile training or detection for other devices, and print its cost"
    )
    parser.add_argument(
        "--config", required=True, type=_path, metavar="FILE", help="experiment, as for train.py"
    )
    devices = parser.add_mutually_exclusive_group(required=True)
    devices.add_argument(
        "--topology", metavar="T", help="TPU slice, such as v5e:16x16; needs libtpu, but no TPU"
    )
    devices.add_argument(
        "--gpu", metavar="NAME", help="h100 or h200; needs NVIDIA's compiler, but no card"
    )
    devices.add_argument(
        "--devices", type=_positive, metavar="N", help="this machine's; simulated if it has fewer"
    )
    parser.add_argument(
        "--gpu-count", default=1, type=_positive, metavar="N", help="of --gpu (default: 1)"
    )
    parser.add_argument(
        "--batch-per-device",
        type=_positive,
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
        type=_bucket,
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
        "--output", type=_path, metavar="FILE", help="write the numbers there as JSON, too"
    )


def _add_data(commands: Any) -> None:
    parser = commands.add_parser(
        "data", help="look at images and annotations, and prepare them for training"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_browse(actions)
    _add_split(actions)
    _add_prepare(actions)


def _add_browse(actions: Any) -> None:
    parser = actions.add_parser(
        "browse", help="draw images with their annotations, and count what there is"
    )
    parser.add_argument(
        "--config", type=_path, metavar="FILE", help="experiment whose data to draw"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change it, as plan does"
    )
    parser.add_argument(
        "--images",
        type=_path,
        metavar="DIR",
        help="instead of --config: where the file names start",
    )
    parser.add_argument(
        "--annotations", type=_path, metavar="JSON", help="of these images, in COCO's format"
    )
    parser.add_argument(
        "--split", default="train", choices=("train", "val"), help="of the config (default: train)"
    )
    parser.add_argument(
        "--augmented",
        action="store_true",
        help="beside each image, three views as training sees them",
    )
    parser.add_argument(
        "--count",
        default=24,
        type=_positive,
        metavar="N",
        help="of images, spread over the set (24)",
    )
    parser.add_argument("--image-id", nargs="+", type=int, metavar="ID", help="draw these images")
    parser.add_argument("--category", metavar="NAME", help="draw only images that have it")
    parser.add_argument(
        "--separate", action="store_true", help="a file for each image, instead of pages of twelve"
    )
    parser.add_argument(
        "--side",
        default=640,
        type=_up_to(_MAX_SIDE),
        metavar="PX",
        help="longest, of a drawing (default: 640)",
    )
    parser.add_argument(
        "--output", required=True, type=_path, metavar="DIR", help="for the drawings"
    )


def _add_split(actions: Any) -> None:
    parser = actions.add_parser(
        "split", help="divide annotations into images to train on and to validate with"
    )
    parser.add_argument(
        "--images", required=True, type=_path, metavar="DIR", help="where the file names start"
    )
    parser.add_argument(
        "--annotations", required=True, type=_path, metavar="JSON", help="in COCO's format"
    )
    parser.add_argument(
        "--fraction",
        default=0.2,
        type=_fraction,
        metavar="F",
        help="of the images, to validate with (default: 0.2)",
    )
    parser.add_argument("--seed", default=0, type=int, metavar="N", help="of the draw (default: 0)")
    parser.add_argument(
        "--output", required=True, type=_path, metavar="DIR", help="for train.json and val.json"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace them if they exist, but never the annotations"
    )


def _add_prepare(actions: Any) -> None:
    parser = actions.add_parser(
        "prepare", help="write images and annotations into a few large files (ArrayRecord)"
    )
    parser.add_argument(
        "--images", required=True, type=_path, metavar="DIR", help="where the file names start"
    )
    parser.add_argument(
        "--annotations", required=True, type=_path, metavar="JSON", help="in COCO's format"
    )
    parser.add_argument("--split", required=True, choices=("train", "val"))
    parser.add_argument(
        "--output", required=True, type=_path, metavar="DIR", help="of both splits: data.tfds_dir"
    )


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text}")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def _up_to(limit: int) -> Callable[[str], int]:
    """Makes a parser of whole numbers from 1 to a limit."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= limit:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from 1 to {limit}, got {text}"
            )
        return int(text)

    return parse


def _given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; for the folder you are in, give .")
    return text


def _path(text: str) -> Path:
    return Path(_given(text))


def _bucket(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"must be a height and a width, as in 800x1344, got {text}"
        )
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
