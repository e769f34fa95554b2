"""The results of either side for one image, as NumPy arrays with channels last."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

Levels = dict[int, np.ndarray]  # {level: array}


class Outcome(NamedTuple):
    """The detections of one image, and the numbers behind them.

    Boxes are in pixels of the resized image unless noted. Without a mask head, masks are None here
    and in `Stages`.
    """

    size: tuple[int, int]  # Height and width of the resized image.
    original_size: tuple[int, int]
    canvas: tuple[int, int]  # Height and width of the padded image that the network saw.
    anchors: Levels  # [n, 4]
    objectness: Levels  # Logits, [n].
    deltas: Levels  # [n, 4]
    proposals: Float32[np.ndarray, "p 4"]
    class_logits: Float32[np.ndarray, "p k"]
    class_deltas: Float32[np.ndarray, "p k 4"]
    boxes: Float32[np.ndarray, "d 4"]
    labels: Int[np.ndarray, " d"]
    scores: Float32[np.ndarray, " d"]
    original_boxes: Float32[np.ndarray, "d 4"]  # In pixels of the original image.
    masks: Float32[np.ndarray, "d height width"] | None  # Pasted into the original image.


class Stages(NamedTuple):
    """All intermediate results of torchvision for one image."""

    image: Float32[np.ndarray, "h w 3"]  # Normalised, resized and padded.
    backbone: Levels  # C2 to C5, [h, w, c]
    pyramid: Levels  # P2 to P6
    box_features: Float32[np.ndarray, "p s s c"]  # Pooled from the proposals.
    mask_features: Float32[np.ndarray, "d t t c"] | None  # Pooled from the detected boxes.
    mask_logits: Float32[np.ndarray, "d m m"] | None  # Of the detected class.
    outcome: Outcome
