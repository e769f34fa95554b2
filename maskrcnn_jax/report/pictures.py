"""Small pictures of ground truth and detections, as data URIs that a page can hold in itself."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pycocotools import mask as rle_codec

from maskrcnn_jax import visualize
from maskrcnn_jax.data import coco

LONG_SIDE = 420  # Pixels of every picture.

_JPEG_QUALITY = 80


def data_uri(
    image: UInt8[np.ndarray, "h w 3"], objects: Sequence[dict[str, Any]], labels: Sequence[int], names: Sequence[str]
) -> str:
    """Draws objects over a small copy of their image, and encodes it as JPEG.

    Args:
      image: RGB.
      objects: annotations or results in COCO's format, in pixels of the image; those whose box is not finite, which
        annotation files have too, are not drawn.
      labels: of the objects: 1, 2, ... into the names.
      names: of the classes.
    """
    boxes = np.array([found["bbox"] for found in objects], np.float64).reshape(-1, 4)
    finite = np.flatnonzero(np.isfinite(boxes).all(1)).tolist()
    boxes, objects, labels = boxes[finite], [objects[i] for i in finite], [labels[i] for i in finite]
    boxes[:, 2:] += boxes[:, :2]  # COCO gives width and height.
    masks = [_patch(found["segmentation"], image.shape[:2]) for found in objects]
    scores = [found["score"] for found in objects if "score" in found] or None
    picture = visualize.draw(image, boxes, labels, scores, masks, names, scale=LONG_SIDE / max(image.shape))
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _patch(mask: coco.Mask, size: tuple[int, int]) -> visualize.Patch:
    """The part of a mask that is not empty: a tenth of the work of resizing the whole."""
    x, y, width, height = (int(side) for side in rle_codec.toBbox(coco.rle(mask, *size)))
    return coco.decode_mask(mask, *size)[y : y + height, x : x + width], (y, x)
