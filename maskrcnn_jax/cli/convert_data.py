"""`maskrcnn-jax data convert`: makes COCO json of the annotations of other tools."""

import argparse
import json
from collections import Counter

from rich.table import Table
from rich.text import Text

from maskrcnn_jax import whole_files
from maskrcnn_jax.cli import outputs
from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.cli.streams import number
from maskrcnn_jax.data.findings import plain, plain_line
from maskrcnn_jax.data.formats import conversion
from maskrcnn_jax.data.formats.conversion import Conversion


def run(args: argparse.Namespace) -> int:
    """Writes the json file, warns of what was left out, and counts the rest.

    Returns:
        1 if images or files are left out, else 0.
    """
    outputs.check_file(args.output)
    read = [args.source, args.categories, args.images]
    with outputs.claim("maskrcnn-jax data", [args.output], inputs=read, force=args.force) as add:
        converted = conversion.convert(
            args.source,
            args.format,
            args.images,
            split=args.split,
            attribute=args.attribute,
            categories=args.categories,
        )
        converted.findings.report(args.source, args.strict)
        add(args.output)
        whole_files.write_text(args.output, json.dumps(converted.content))
    _print(converted, args)
    return 0 if converted.is_whole else 1


def _print(converted: Conversion, args: argparse.Namespace) -> None:
    """Prints the numbers of images, and of objects of each category."""
    content = converted.content
    objects = [found for found in content["annotations"] if not found["iscrowd"]]
    counts = Counter(found["category_id"] for found in objects)
    table = Table("category", "id", "objects")
    for entry in content["categories"]:
        table.add_row(Text(plain_line(entry["name"])), str(entry["id"]), str(counts[entry["id"]]))
    Console().print(table)
    num_crowds = len(content["annotations"]) - len(objects)
    crowds = f" and {number(num_crowds, 'crowd')}" if num_crowds else ""
    images = number(len(content["images"]), "image")
    numbers = f"{number(len(objects), 'object')}{crowds} in {images}"
    print(f"{args.output}: {numbers}, from {converted.format}")
    if converted.format in conversion.WITH_SPLITS and args.split is None:
        print("all parts of the data set together; --split takes one of them")
    print(f"to look at them: maskrcnn-jax data browse --annotations {args.output} --images \\")
    print(f"  {plain(str(converted.images))} --output DIR")
