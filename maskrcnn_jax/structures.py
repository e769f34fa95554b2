"""The arrays that flow through the model, as named tuples.

Axes: ``b`` batch, ``h w`` pixels or cells, ``c`` channels, ``a`` anchors, ``s`` samples, ``p``
proposals, ``r`` RoIs, ``g`` ground-truth instances, ``d`` detections, ``k`` classes (background
first), ``m`` side of a mask.

Boxes are float32 ``[x0, y0, x1, y1]`` in pixels of the resized, padded image, in every function.
The width of a box is ``x1 - x0``. Every collection has a fixed size; ``valid`` marks the slots in
use, and padded slots come last. A stage sees one image, so it gets arrays without the leading
``b``.
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8

Pyramid = dict[int, Array]  # {level: [b, h, w, c]}; the stride of a level is 2**level.
ImagePyramid = dict[int, Float[Array, "_h _w c"]]  # The pyramid of one image.
# The parts of a mean, which is taken once all parts of a batch are added.
SumAndCount = tuple[Float[Array, ""], Float[Array, ""]]
Sums = dict[str, SumAndCount]  # Losses, or diagnostics, by name.


class Crops(NamedTuple):
    """Masks, each resampled to its own box."""

    values: UInt8[Array, "b g m m"]  # 255 is inside the object, 0 outside.


class Bitmaps(NamedTuple):
    """Masks of whole images, resized and padded like the images."""

    values: UInt8[Array, "b g h w"]  # 255 is inside the object, 0 outside.


class Instances(NamedTuple):
    """Ground truth of a batch."""

    boxes: Float[Array, "b g 4"]
    classes: Int[Array, "b g"]  # 1 to k-1; 0 is background and does not occur.
    masks: Crops | Bitmaps | None  # None if the model has no mask head.
    valid: Bool[Array, "b g"]


class Batch(NamedTuple):
    """Images of one bucket with their ground truth, as the data pipeline delivers them."""

    images: UInt8[Array, "b h w c"] | Float[Array, "b h w c"]  # uint8, or float32; white is 1.
    sizes: Int[Array, "b 2"]  # Height and width of the image; the rest of the bucket is padding.
    canvas: Int[Array, "b 2"]  # Height and width of the padded image; see `MaskRCNN`.
    image_id: Int[Array, " b"]  # Random draws depend on no other field.
    instances: Instances
    num_surplus: Int[Array, " b"]  # Objects of the image without a slot in `instances`.
    num_removed: Int[Array, " b"] | None = None  # Objects that transforms removed, if counted.


class Proposals(NamedTuple):
    """Boxes that may hold an object, by descending objectness."""

    boxes: Float[Array, "b p 4"]
    valid: Bool[Array, "b p"]


class AnchorScores(NamedTuple):
    """Predictions of the region proposal network, per level, the finest first."""

    logits: dict[int, Float[Array, "b _"]]  # Of objectness.
    deltas: dict[int, Float[Array, "b _ 4"]]  # From each anchor to its object.


class AnchorTargets(NamedTuple):
    """The anchors sampled for the loss of the region proposal network; positives come first."""

    indices: Int[Array, "b s"]  # Into the anchors of all levels, the finest level first.
    positive: Bool[Array, "b s"]
    deltas: Float[Array, "b s 4"]  # From the anchor to its object; zero unless positive.
    valid: Bool[Array, "b s"]


class RoITargets(NamedTuple):
    """The RoIs sampled for the losses of the box and mask heads; positives come first."""

    boxes: Float[Array, "b r 4"]
    classes: Int[Array, "b r"]  # 0 is background.
    deltas: Float[Array, "b r 4"]  # From the RoI to its object; zero unless positive.
    instances: Int[Array, "b r"]  # Slot of the matched object; meaningless unless positive.
    positive: Bool[Array, "b r"]
    valid: Bool[Array, "b r"]


class Detections(NamedTuple):
    """Detected objects, by descending score."""

    boxes: Float[Array, "b d 4"]
    classes: Int[Array, "b d"]
    scores: Float[Array, "b d"]
    # Probabilities on a grid over the box; None without a mask head.
    masks: Float[Array, "b d m m"] | None
    valid: Bool[Array, "b d"]
