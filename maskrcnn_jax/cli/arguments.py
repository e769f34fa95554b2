"""The arguments of the commands of `maskrcnn-jax`, but for those of `data`."""

from typing import Any

from maskrcnn_jax.cli.argument_types import (
    bucket,
    fraction,
    given,
    path,
    port,
    positive,
    some_of,
    up_to,
)

WEIGHTS = (
    "directory of a training run, or of one of its checkpoints (RUN/checkpoints/STEP); or a weight "
    "file of ours, torchvision, Detectron2 or MMDetection (.npz, .pth, .safetensors, .pkl); or "
    "COCO_V1 or V2_COCO_V1: torchvision's maskrcnn_resnet50_fpn and maskrcnn_resnet50_fpn_v2, "
    "downloaded once; or a name such as detectron2:mask_rcnn_R_50_FPN_3x or "
    "mmdet:mask-rcnn_r50_fpn_1x_coco; or hf://OWNER/NAME, a model of the Hugging Face Hub"
)
AUGMENT = "join the detections of every image in three sizes and mirrored: slower, and more exact"
FORMATS = ("picture", "coco", "geojson", "labels", "csv")
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

_MAX_BATCH_SIZE = 1024  # A batch of images of usual sizes already takes gigabytes.


def add_predict(commands: Any) -> None:
    """Adds the command ``predict`` with its arguments to the subparsers."""
    parser = commands.add_parser("predict", help="find objects in images and videos, and draw them")
    parser.add_argument(
        "images",
        nargs="+",
        type=given,
        metavar="IMAGE",
        help="or a video, a folder of them, or a pattern such as 'photos/**/*.jpg'",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=given, metavar="W", help=WEIGHTS)
    source.add_argument(
        "--artifact",
        type=path,
        metavar="FILE",
        help="instead: a file of `maskrcnn-jax export`",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=path,
        metavar="DIR",
        help="for drawings and detections.json",
    )
    parser.add_argument(
        "--score-threshold",
        default=0.5,
        type=fraction,
        metavar="S",
        help="from 0 to 1 (default: 0.5)",
    )
    parser.add_argument("--augment", action="store_true", help=AUGMENT)
    parser.add_argument(
        "--top-k",
        type=positive,
        metavar="N",
        help="at most so many objects per image, the best",
    )
    _add_tiles(parser)
    parser.add_argument(
        "--formats",
        type=some_of(FORMATS),
        default=("picture", "coco"),
        metavar="F,F",
        help="what to write for images, of picture, coco (detections.json), geojson, labels (a png "
        "with the number of the object at each pixel) and csv (default: picture,coco)",
    )
    parser.add_argument(
        "--ids", type=path, metavar="JSON", help="take image ids from this file, in COCO's format"
    )
    _add_force(parser, "files in DIR that predict has not written, but never an input")


def _add_tiles(parser: Any) -> None:
    parser.add_argument(
        "--tile",
        type=positive,
        metavar="PIXELS",
        help="look at images through windows of this side, for images larger than the network",
    )
    parser.add_argument(
        "--overlap",
        type=fraction,
        metavar="SHARE",
        help="of a window, which its neighbour also sees (default: 0.25)",
    )


def add_evaluate(commands: Any) -> None:
    """Adds the command ``evaluate`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "evaluate", help="measure COCO box and mask AP on a validation set"
    )
    parser.add_argument("--weights", required=True, type=given, metavar="W", help=WEIGHTS)
    parser.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="take data, detection and execution from this one; weights need it",
    )
    parser.add_argument("--augment", action="store_true", help=AUGMENT)
    parser.add_argument("--per-class", action="store_true", help="also the AP of each class")
    parser.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        help="for the json files (default: the run directory, or this one)",
    )
    parser.add_argument(
        "--report",
        type=path,
        metavar="FILE",
        help="write a page with tables, curves and drawings there (.html)",
    )
    _add_force(parser, "files that evaluate has not written, but never an input")


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
    _add_force(parser, "OUT, whoever has written it, but never an input")
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
        type=up_to(_MAX_BATCH_SIZE),
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
    _add_force(parser, "OUT, whoever has written it, but never an input")


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


def add_serve(commands: Any) -> None:
    """Adds the command ``serve`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "serve", help="try a model in the browser, and answer other programs with JSON"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=given, metavar="W", help=WEIGHTS)
    source.add_argument(
        "--artifact", type=path, metavar="FILE", help="instead: a file of `maskrcnn-jax export`"
    )
    parser.add_argument(
        "--port", default=8000, type=port, metavar="N", help="(default: 8000; 0: any free one)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        type=given,
        metavar="ADDRESS",
        help="where to listen; others than this machine reach 0.0.0.0 (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--batch",
        type=up_to(_MAX_BATCH_SIZE),
        metavar="N",
        help="most images in the model at once (default: 1 on a CPU, otherwise 4)",
    )
    parser.add_argument(
        "--queue",
        default=32,
        type=positive,
        metavar="N",
        help="requests at once; more are told to come again (default: 32)",
    )
    parser.add_argument(
        "--max-megabytes", default=20, type=positive, metavar="N", help="of a file (default: 20)"
    )
    parser.add_argument(
        "--max-megapixels",
        default=50,
        type=positive,
        metavar="N",
        help="of an image (default: 50)",
    )
    parser.add_argument(
        "--timeout",
        default=60,
        type=positive,
        metavar="SECONDS",
        help="for the upload and the answer of a request (default: 60)",
    )


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
    _add_force(parser, "FILE, whoever has written it, but never an image")


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
    _add_force(parser, "FILE, whoever has written it, but never the config")


def _add_force(parser: Any, what: str) -> None:
    parser.add_argument("--force", action="store_true", help=f"replace {what}")
