"""The command `maskrcnn-jax`: its arguments, and the way to the file of each command."""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import maskrcnn_jax
from maskrcnn_jax.cli import memory

WEIGHTS = (
    "directory of a training run, or of one of its checkpoints (RUN/checkpoints/STEP); or a weight file, torchvision's "
    "or ours (.pth, .safetensors, .npz); or COCO_V1 or V2_COCO_V1: torchvision's maskrcnn_resnet50_fpn and "
    "maskrcnn_resnet50_fpn_v2, downloaded once"
)
AUGMENT = "look at every image in three sizes and mirrored, and join what is found: slower, and more exact"

_MAX_BATCH_SIZE = 1024  # Images of usual sizes take gigabytes then.
_MAX_SIDE = 4096  # Pixels: a page of twelve pictures takes more than half a gigabyte then.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 if images failed or fell short, or 2 for a mistake in the call."""
    args = _parser().parse_args(arguments)
    # Imported only now, so that --help need not wait for jax.
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
        message, code = "interrupted", 130  # As shells report it.
    print(f"maskrcnn-jax {args.command}: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    description = "Mask R-CNN in JAX: everything but training, which `python train.py` does in the checkout."
    parser = argparse.ArgumentParser(prog="maskrcnn-jax", description=description)
    parser.add_argument("--version", action="version", version=f"maskrcnn-jax {maskrcnn_jax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser("predict", help="find objects in images and videos, and draw them")
    predict.add_argument(
        "images",
        nargs="+",
        type=_given,
        metavar="IMAGE",
        help="or a video, a folder of them, or a pattern such as 'photos/**/*.jpg'",
    )
    source = predict.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=_given, metavar="W", help=WEIGHTS)
    source.add_argument("--artifact", type=_path, metavar="FILE", help="instead: what `maskrcnn-jax export` wrote")
    predict.add_argument("--output", required=True, type=_path, metavar="DIR", help="for pictures and detections.json")
    predict.add_argument(
        "--score-threshold", default=0.5, type=_fraction, metavar="S", help="from 0 to 1 (default: 0.5)"
    )
    predict.add_argument("--augment", action="store_true", help=AUGMENT)
    predict.add_argument("--top-k", type=_positive, metavar="N", help="at most so many objects per image, the best")

    evaluate = commands.add_parser("evaluate", help="measure COCO box and mask AP on a validation set")
    evaluate.add_argument("--weights", required=True, type=_given, metavar="W", help=WEIGHTS)
    evaluate.add_argument(
        "--config", type=_path, metavar="FILE", help="take data and detection settings from this one; weights need it"
    )
    evaluate.add_argument("--augment", action="store_true", help=AUGMENT)
    evaluate.add_argument("--per-class", action="store_true", help="also the AP of each class")
    evaluate.add_argument(
        "--output", type=_path, metavar="DIR", help="for the json files (default: the run directory, or this one)"
    )
    evaluate.add_argument(
        "--report", type=_path, metavar="FILE", help="write a page with tables, curves and pictures there (.html)"
    )

    convert = commands.add_parser("convert", help="write weights for torchvision, or for this program")
    convert.add_argument("weights", type=_given, metavar="IN", help=WEIGHTS)
    convert.add_argument(
        "output", type=_path, metavar="OUT", help=".pth or .safetensors with torchvision's names, .npz with ours"
    )
    convert.add_argument("--force", action="store_true", help="replace OUT if it exists")

    export = commands.add_parser("export", help="write a model that runs without this program's code, on any device")
    export.add_argument("--weights", required=True, type=_given, metavar="W", help=WEIGHTS)
    export.add_argument("output", type=_path, metavar="OUT", help="ends in .npz")
    export.add_argument(
        "--size",
        action="append",
        type=_bucket,
        metavar="HxW",
        help="of padded images, multiples of 32; may be given several times (default: as the model was tested)",
    )
    export.add_argument(
        "--batch", default=1, type=_up_to(_MAX_BATCH_SIZE), metavar="N", help="images at once (default: 1)"
    )
    export.add_argument(
        "--input", default="float32", choices=("float32", "uint8"), help="of images (default: float32, in [0, 1])"
    )
    export.add_argument(
        "--score-threshold", type=_fraction, metavar="S", help="where the caller gives none (default: the model's)"
    )
    export.add_argument("--force", action="store_true", help="replace OUT if it exists")

    parity = commands.add_parser("parity", help="compare with torchvision, which must be installed, and report")
    parity.add_argument("images", nargs="+", type=_path, metavar="IMAGE")
    weights = parity.add_mutually_exclusive_group(required=True)
    weights.add_argument("--weights", type=_given, metavar="W", help=WEIGHTS)
    weights.add_argument("--random", choices=("v1", "v1-batch-norm", "v2"), help="random weights of this model")
    parity.add_argument("--seed", default=0, type=int, help="of the random weights (default: 0)")
    parity.add_argument("--short-side", default=800, type=int, metavar="PX", help="of resized images (default: 800)")
    parity.add_argument("--max-long-side", default=1333, type=int, metavar="PX", help="at most (default: 1333)")
    parity.add_argument("--output", type=_path, metavar="FILE", help="write the report there as JSON, too")

    plan = commands.add_parser("plan", help="compile a training step for many devices, and say what it costs")
    plan.add_argument("--config", required=True, type=_path, metavar="FILE", help="experiment, as for train.py")
    devices = plan.add_mutually_exclusive_group(required=True)
    devices.add_argument("--topology", metavar="T", help="TPU slice, such as v5e:16x16; needs libtpu, but no TPU")
    devices.add_argument("--devices", type=_positive, metavar="N", help="this machine's; simulated if it has fewer")
    plan.add_argument(
        "--batch-per-device", type=_positive, metavar="N", help="images (default: batch_size divided, or 1)"
    )
    plan.add_argument("--bucket", type=_bucket, metavar="HxW", help="of images (default: the first of data.buckets)")
    plan.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change the config: model.dtype=bfloat16"
    )
    plan.add_argument("--output", type=_path, metavar="FILE", help="write the numbers there as JSON, too")

    data = commands.add_parser("data", help="look at images and annotations, and prepare them for training")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    browse = actions.add_parser("browse", help="draw images with their annotations, and count what there is")
    browse.add_argument("--config", type=_path, metavar="FILE", help="experiment whose data to draw")
    browse.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change it, as plan does")
    browse.add_argument("--images", type=_path, metavar="DIR", help="instead of --config: where the file names start")
    browse.add_argument("--annotations", type=_path, metavar="JSON", help="of these images, in COCO's format")
    browse.add_argument("--split", default="train", choices=("train", "val"), help="of the config (default: train)")
    browse.add_argument(
        "--augmented", action="store_true", help="beside each image, three views as training draws them"
    )
    browse.add_argument("--count", default=24, type=_positive, metavar="N", help="of images, spread over the set (24)")
    browse.add_argument("--image-id", nargs="+", type=int, metavar="ID", help="draw these images")
    browse.add_argument("--category", metavar="NAME", help="draw only images that have it")
    browse.add_argument("--separate", action="store_true", help="a file for each image, instead of pages of twelve")
    browse.add_argument(
        "--side", default=640, type=_up_to(_MAX_SIDE), metavar="PX", help="longest, of a picture (default: 640)"
    )
    browse.add_argument("--output", required=True, type=_path, metavar="DIR", help="for the pictures")
    split = actions.add_parser("split", help="divide annotations into images to train on and images to judge by")
    split.add_argument("--images", required=True, type=_path, metavar="DIR", help="where the file names start")
    split.add_argument("--annotations", required=True, type=_path, metavar="JSON", help="in COCO's format")
    split.add_argument(
        "--fraction", default=0.2, type=_fraction, metavar="F", help="of the images, to judge by (default: 0.2)"
    )
    split.add_argument("--seed", default=0, type=int, metavar="N", help="of the draw (default: 0)")
    split.add_argument("--output", required=True, type=_path, metavar="DIR", help="for train.json and val.json")
    split.add_argument("--force", action="store_true", help="replace them if they exist, but never the annotations")
    prepare = actions.add_parser("prepare", help="write images and annotations into a few large files (ArrayRecord)")
    prepare.add_argument("--images", required=True, type=_path, metavar="DIR", help="where the file names start")
    prepare.add_argument("--annotations", required=True, type=_path, metavar="JSON", help="in COCO's format")
    prepare.add_argument("--split", required=True, choices=("train", "val"))
    prepare.add_argument("--output", required=True, type=_path, metavar="DIR", help="of both splits: data.tfds_dir")
    return parser


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
    """The type of whole numbers from 1 to a limit."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= limit:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {limit}, got {text}")
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
        raise argparse.ArgumentTypeError(f"must be a height and a width, as in 800x1344, got {text}")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
