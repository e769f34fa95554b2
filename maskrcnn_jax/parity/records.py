"""The peer, and the results of either side for one image, as NumPy arrays with channels last.

`Step` is one step of the explanation of a difference.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    # The boxes whose features each stage of the box head pools: the proposals, and in a cascade
    # what the stages before made of them. The class deltas belong to those of the last stage.
    rois: Float32[np.ndarray, "s p 4"]
    class_logits: Float32[np.ndarray, "p k"]
    class_deltas: Float32[np.ndarray, "p _k 4"]
    boxes: Float32[np.ndarray, "d 4"]
    labels: Int[np.ndarray, " d"]
    scores: Float32[np.ndarray, " d"]
    original_boxes: Float32[np.ndarray, "d 4"]  # In pixels of the original image.
    # Probabilities, pasted into the original image. The pixels above 0.5 belong to the object.
    masks: Float32[np.ndarray, "d height width"] | None


class Stages(NamedTuple):
    """All intermediate results of the peer for one image."""

    image: Float32[np.ndarray, "h w 3"]  # Normalised, resized and padded.
    backbone: Levels  # C2 to C5, [h, w, c]
    pyramid: Levels  # P2 to P6
    # Pooled from the RoIs of each stage of the box head, one stage after the other.
    box_features: Float32[np.ndarray, "n s s c"]
    mask_features: Float32[np.ndarray, "d t t c"] | None  # Pooled from the detected boxes.
    mask_logits: Float32[np.ndarray, "d m m"] | None  # Of the detected class.
    outcome: Outcome


class Peer(NamedTuple):
    """Another program with a model of its own that has the weights of ours."""

    name: str
    model: Any
    # Detects objects in a batch of images, uint8 [h, w, 3] in the order RGB.
    predict: Callable[[Sequence[np.ndarray]], list[Stages]]
    # For up to this many boxes on a CPU, its NMS separates groups by offsets that it adds to the
    # coordinates, which rounds them.
    max_boxes_with_offsets: int
    sorts_by: str = "logit"  # How it sorts anchors: "logit", or "probability", which rounds.


class Step(NamedTuple):
    """A decision that differed by rounding, or that followed from the decision of the next step."""

    text: str
    margin: float  # Distance of the numbers from the other decision; infinite if unknown.
    tolerance: float


Steps = tuple[Step, ...]
