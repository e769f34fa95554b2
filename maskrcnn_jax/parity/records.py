"""What either side of the comparison computes for one image: NumPy arrays of one layout, channels last."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

Levels = dict[int, np.ndarray]  # By level of the pyramid.


class Outcome(NamedTuple):
    """Detections, and the numbers on which a side took its decisions. Boxes in pixels of the resized image."""

    size: tuple[int, int]  # Height and width of the resized image.
    original_size: tuple[int, int]
    canvas: tuple[int, int]  # Of the padded image the network saw.
    anchors: Levels  # [n, 4]
    objectness: Levels  # Logits [n]
    deltas: Levels  # [n, 4]
    proposals: Float32[np.ndarray, "p 4"]
    class_logits: Float32[np.ndarray, "p k"]
    class_deltas: Float32[np.ndarray, "p k 4"]
    boxes: Float32[np.ndarray, "d 4"]
    labels: Int[np.ndarray, " d"]
    scores: Float32[np.ndarray, " d"]
    original_boxes: Float32[np.ndarray, "d 4"]  # In pixels of the original image.
    masks: Float32[np.ndarray, "d height width"]  # Probabilities, pasted into the original image.


class Stages(NamedTuple):
    """Everything that the reference computes on the way to its detections."""

    image: Float32[np.ndarray, "h w 3"]  # Normalised, resized and padded.
    backbone: Levels  # C2 to C5, [h, w, c]
    pyramid: Levels  # P2 to P6
    box_features: Float32[np.ndarray, "p s s c"]  # Pooled from the proposals.
    mask_features: Float32[np.ndarray, "d t t c"]  # Pooled from the detected boxes.
    mask_logits: Float32[np.ndarray, "d m m"]  # Of the detected class.
    outcome: Outcome
