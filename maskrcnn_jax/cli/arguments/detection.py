"""The arguments of the commands that find objects: `predict`, `evaluate`, `serve`."""

from typing import Any

from maskrcnn_jax.cli.arguments.common import MAX_BATCH_SIZE, WEIGHTS, add_force
from maskrcnn_jax.cli.arguments.types import (
    fraction,
    given,
    path,
    port,
    positive,
    some_of,
    up_to,
)

AUGMENT = "join the detections of every image in three sizes and mirrored: slower, and more exact"
FORMATS = ("picture", "coco", "geojson", "labels", "csv")


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
    add_force(parser, "files in DIR that predict has not written, but never an input")


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
    add_force(parser, "files that evaluate has not written, but never an input")


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
        type=up_to(MAX_BATCH_SIZE),
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
