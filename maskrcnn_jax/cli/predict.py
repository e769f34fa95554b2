"""`maskrcnn-jax predict`: finds objects in images, and draws them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from maskrcnn_jax import cache, evaluation, images, visualize
from maskrcnn_jax.cli import progress
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.weights import loading

_LEGIBLE_SIDE = 512  # Pixels; pictures with a shorter side are drawn larger.


def run(args: argparse.Namespace) -> int:
    """Writes a picture for each image, and `detections.json` for all; returns 1 if an image cannot be read, else 0.

    `detections.json` is in COCO's results format, with the file name besides. The image id is the name without its
    ending, as a number where it is one, as the names of COCO's images are.
    """
    cache.keep_compiled_programs()
    loaded = loading.load(args.weights)
    print(loaded.report)
    detector = Detector.from_loaded(loaded)
    args.output.mkdir(parents=True, exist_ok=True)
    results, num_failed = [], 0
    with progress.images("predict", len(args.images)) as advance:
        for path, name in zip(args.images, _names(args.images), strict=True):
            try:
                results += _predict(detector, path, args.output / f"{name}.png", args.score_threshold)
            except OSError as error:
                print(f"maskrcnn-jax predict: {error}", file=sys.stderr)
                num_failed += 1
            advance(1)
    (args.output / "detections.json").write_text(json.dumps(results))
    num_drawn = len(args.images) - num_failed
    print(f"{len(results)} objects in {num_drawn} images: pictures and detections.json are in {args.output}")
    return 1 if num_failed else 0


def _names(paths: Sequence[Path]) -> list[str]:
    """File names without their endings; those that would coincide get a number."""
    names: list[str] = []
    for path in paths:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}-{number}", number + 1
        names.append(name)
    return names


def _predict(detector: Detector, path: Path, picture_path: Path, score_threshold: float) -> list[dict]:
    image = images.read_image(path)
    found = detector.detect(image, score_threshold)
    scale = max(1, round(_LEGIBLE_SIDE / min(image.shape[:2])))
    picture = visualize.draw(image, *found, detector.categories.names, scale=scale)
    Image.fromarray(picture).save(picture_path)
    name = picture_path.stem
    image_id = int(name) if name.isdecimal() else name
    results = evaluation.coco_results(found, image.shape[:2], image_id, detector.categories.ids)
    return [result | {"file_name": str(path)} for result in results]
