"""The arguments of `maskrcnn-jax data`."""

from typing import Any

from maskrcnn_jax.cli.arguments.types import fraction, given, path, positive, up_to

FORMATS = ("labelme", "via", "yolo", "voc", "cityscapes", "masks")
_MAX_SIDE = 4096  # Pixels: a page of twelve such images takes over half a gigabyte.


def add_data(commands: Any) -> None:
    """Adds the command ``data`` with its arguments to the subparsers."""
    parser = commands.add_parser(
        "data", help="look at images and annotations, and prepare them for training"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_convert(actions)
    _add_browse(actions)
    _add_statistics(actions)
    _add_split(actions)
    _add_check(actions)
    _add_prepare(actions)


def _add_convert(actions: Any) -> None:
    parser = actions.add_parser("convert", help="make COCO json of annotations of other tools")
    parser.add_argument("source", type=path, metavar="FROM", help="their folder or file")
    parser.add_argument("output", type=path, metavar="OUT.json", help="the file to write")
    parser.add_argument("--format", choices=FORMATS, help="of FROM, if its content does not tell")
    parser.add_argument(
        "--images", type=path, metavar="DIR", help="of the images, if they lie elsewhere"
    )
    parser.add_argument(
        "--split", type=given, metavar="NAME", help="take this part only, such as train"
    )
    parser.add_argument(
        "--attribute", type=given, metavar="NAME", help="of VIA's regions: the one with the class"
    )
    parser.add_argument(
        "--categories", type=path, metavar="JSON", help="take ids and names of this COCO json"
    )
    parser.add_argument(
        "--strict", action="store_true", help="write nothing if anything is left out or repaired"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace OUT.json, whoever has written it"
    )


def _add_browse(actions: Any) -> None:
    parser = actions.add_parser(
        "browse", help="draw images with their annotations, and count what there is"
    )
    parser.add_argument("--config", type=path, metavar="FILE", help="experiment whose data to draw")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change it, as plan does"
    )
    parser.add_argument(
        "--images",
        type=path,
        metavar="DIR",
        help="instead of --config: where the file names start",
    )
    parser.add_argument(
        "--annotations", type=path, metavar="JSON", help="of these images, in COCO's format"
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
        type=positive,
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
        type=up_to(_MAX_SIDE),
        metavar="PX",
        help="longest, of a drawing (default: 640)",
    )
    parser.add_argument(
        "--output", required=True, type=path, metavar="DIR", help="for the drawings"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace files in DIR that browse has not written, but never an input",
    )


def _add_statistics(actions: Any) -> None:
    parser = actions.add_parser(
        "statistics", help="channels, sizes, objects, anchors, and what may be wrong"
    )
    parser.add_argument(
        "--images", required=True, type=path, metavar="DIR", help="where the file names start"
    )
    parser.add_argument(
        "--annotations", required=True, type=path, metavar="JSON", help="in COCO's format"
    )
    parser.add_argument(
        "--config", type=path, metavar="FILE", help="experiment with the anchors and the sizes"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change it, as plan does"
    )
    parser.add_argument(
        "--count", type=positive, metavar="N", help="of images whose pixels are read (all)"
    )
    parser.add_argument(
        "--channels",
        type=positive,
        metavar="N",
        help="of the images (those of --config, or of the first images)",
    )
    parser.add_argument(
        "--report", type=path, metavar="FILE", help="write a page with plots there (.html)"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE, whoever has written it")


def _add_split(actions: Any) -> None:
    parser = actions.add_parser(
        "split", help="divide annotations into images to train on and to validate with"
    )
    parser.add_argument(
        "--images", required=True, type=path, metavar="DIR", help="where the file names start"
    )
    parser.add_argument(
        "--annotations", required=True, type=path, metavar="JSON", help="in COCO's format"
    )
    parser.add_argument(
        "--fraction",
        default=0.2,
        type=fraction,
        metavar="F",
        help="of the images, to validate with (default: 0.2)",
    )
    parser.add_argument("--seed", default=0, type=int, metavar="N", help="of the draw (default: 0)")
    parser.add_argument(
        "--output",
        required=True,
        type=path,
        metavar="DIR",
        help="for train.json and val.json",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace them, whoever has written them, but never the annotations",
    )


def _add_check(actions: Any) -> None:
    parser = actions.add_parser(
        "check", help="decode all images, and list those that cannot be used and why"
    )
    parser.add_argument(
        "--images", required=True, type=path, metavar="DIR", help="where the file names start"
    )
    parser.add_argument(
        "--annotations", required=True, type=path, metavar="JSON", help="in COCO's format"
    )
    parser.add_argument(
        "--headers", action="store_true", help="look at headers only, as training does at its start"
    )


def _add_prepare(actions: Any) -> None:
    parser = actions.add_parser(
        "prepare", help="write images and annotations into a few large files (ArrayRecord)"
    )
    parser.add_argument(
        "--images", required=True, type=path, metavar="DIR", help="where the file names start"
    )
    parser.add_argument(
        "--annotations", required=True, type=path, metavar="JSON", help="in COCO's format"
    )
    parser.add_argument("--split", required=True, choices=("train", "val"))
    parser.add_argument(
        "--output",
        required=True,
        type=path,
        metavar="DIR",
        help="of both splits: data.tfds_dir",
    )
