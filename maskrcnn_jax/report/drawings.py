"""Small drawings of ground truth and detections, as data URIs for a page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pycocotools import mask as rle_codec

from maskrcnn_jax import visualize
from maskrcnn_jax.data import rle

LONG_SIDE = 420  # Pixels of the long side of every drawing.

_JPEG_QUALITY = 80


def data_uri(
    image: UInt8[np.ndarray, "h w 3"],
    objects: Sequence[dict[str, Any]],
    labels: Sequence[int],
    names: Sequence[str],
) -> str:
    """Draws objects over a small copy of their image, and encodes the drawing as JPEG.

    Args:
        image: RGB.
        objects: Annotations or results in COCO's format, in pixels of the image. Without
            "segmentation" only the box is drawn; objects with a non-finite box are skipped.
        labels: The labels 1, 2, ... of the objects, which index ``names``.
        names: The names of the classes.
    """
    boxes = np.array([found["bbox"] for found in objects], np.float64).reshape(-1, 4)
    finite = np.flatnonzero(np.isfinite(boxes).all(1)).tolist()
    boxes = boxes[finite]
    boxes[:, 2:] += boxes[:, :2]  # COCO gives width and height.
    objects = [objects[i] for i in finite]
    drawing = visualize.draw(
        image,
        boxes,
        [labels[i] for i in finite],
        [found["score"] for found in objects if "score" in found] or None,
        [_patch(found.get("segmentation"), image.shape[:2]) for found in objects],
        names,
        scale=LONG_SIDE / max(image.shape),
    )
    content = io.BytesIO()
    Image.fromarray(drawing).save(content, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _patch(mask: rle.Mask | None, size: tuple[int, int]) -> visualize.Patch:
    """Crops a mask to its pixels, since resizing the whole mask would be ten times the work."""
    if not mask:
        return np.zeros((0, 0), np.uint8), (0, 0)
    x, y, width, height = (int(side) for side in rle_codec.toBbox(rle.encode(mask, *size)))
    return rle.decode(mask, *size)[y : y + height, x : x + width], (y, x)
