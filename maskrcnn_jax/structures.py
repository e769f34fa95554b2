"""The arrays that flow through the model, as named tuples.

Axes: ``b`` batch, ``h w`` pixels, ``c`` channels, ``a`` anchors, ``p`` proposals, ``r`` RoIs, ``g`` ground-truth
instances, ``d`` detections, ``k`` classes (background first), ``m`` side of a mask.

Boxes are float32 ``[x0, y0, x1, y1]`` in pixels of the resized, padded image, in every function. The width of a box is
``x1 - x0``. Every collection has a fixed size; ``valid`` says which of its slots hold something, and padded slots come
last. Stage functions see one image, so the leading ``b`` below is absent there.
"""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8

SumAndCount = tuple[Float[Array, ""], Float[Array, ""]]  # Of a mean that is taken when all parts of a batch are added.


class Instances(NamedTuple):
    """Ground truth of a batch: what there is to find."""

    boxes: Float[Array, "b g 4"]
    classes: Int[Array, "b g"]  # 1..k-1; 0 is background and means nothing here.
    # 255 is inside, 0 outside. Each mask resampled to its own box, [b, g, m, m]; or in whole, resized with the image,
    # [b, g, h, w]: masks with the height and width of the bucket are taken for these.
    masks: UInt8[Array, "b g _ _"]
    valid: Bool[Array, "b g"]


class Batch(NamedTuple):
    """Images of one bucket with their ground truth, as the data pipeline delivers them."""

    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]  # RGB, uint8 or float32 in [0, 1].
    sizes: Int[Array, "b 2"]  # Height and width of the picture; the rest of the bucket is padding.
    canvas: Int[Array, "b 2"]  # Height and width of the padded picture the network sees: see `MaskRCNN`.
    image_id: Int[Array, " b"]  # Random draws depend on it, and on nothing else that the batch holds.
    instances: Instances
    num_surplus: Int[Array, " b"]  # Objects of the image that found no slot in `instances`.


class Proposals(NamedTuple):
    """Boxes that probably hold an object, best first."""

    boxes: Float[Array, "b p 4"]
    valid: Bool[Array, "b p"]


class AnchorTargets(NamedTuple):
    """The anchors sampled for the loss of the region proposal network; positives come first."""

    indices: Int[Array, "b s"]  # Into the anchors of all levels, concatenated from the finest level.
    positive: Bool[Array, "b s"]
    deltas: Float[Array, "b s 4"]  # From the anchor to its object; zero unless positive.
    valid: Bool[Array, "b s"]


class RoITargets(NamedTuple):
    """The RoIs sampled for the losses of the box and mask heads; positives come first."""

    boxes: Float[Array, "b r 4"]
    classes: Int[Array, "b r"]  # 0 is background.
    deltas: Float[Array, "b r 4"]  # From the RoI to its object; zero unless positive.
    instances: Int[Array, "b r"]  # Slot of the matched object in `Instances`; meaningless unless positive.
    positive: Bool[Array, "b r"]
    valid: Bool[Array, "b r"]


class Detections(NamedTuple):
    """What the model found, by descending score."""

    boxes: Float[Array, "b d 4"]
    classes: Int[Array, "b d"]
    scores: Float[Array, "b d"]
    masks: Float[Array, "b d m m"]  # Probabilities on a grid that covers the box.
    valid: Bool[Array, "b d"]
