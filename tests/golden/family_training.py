"""Small models, images and objects for recordings of a training step of other libraries.

`write_family_training` makes the recordings. The images are tiny, so that the libraries draw all
anchors that are positive or negative, which are fewer than asked for.
"""

from typing import NamedTuple

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.parity import recipe
from maskrcnn_jax.weights import torchvision
from tests.golden import small
from tests.parity.peer_replay import Drawn

SIZES = (30, 40), (30, 44)  # Height and width of the images; both have the canvas 32x64.
PRESETS = {
    "detectron2": presets.detectron2_r50_fpn,
    "mmdetection": presets.mmdet_r50_fpn,
}


class Recording(NamedTuple):
    """A training step of another library. Lists have an entry for each image."""

    losses: dict[str, float]  # By our names.
    anchors: list[Drawn]  # In the order level, row, column, ratio.
    rois: list[Drawn]  # Among proposals and objects, in the order of the library.
    proposals: list[np.ndarray]  # [p, 4]
    mask_targets: np.ndarray  # Of the positive RoIs of all images, [p, 28, 28].
    # Outputs at the drawn candidates of all images, positives first, in the order of our classes:
    # "logits" [a], "deltas" [a, 4], "class_logits" [r, k], "class_deltas" [r, k, 4], and
    # "mask_logits" [p, 28, 28] of the true class.
    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]  # Of the sum of the losses by the outputs.


def config(library: str) -> Config:
    """The preset of a library with a ResNet-18, narrow heads, small anchors and all anchors."""
    found = PRESETS[library](num_classes=5)
    model = found.model
    presets.use_torchvision_input(model)  # The weights of the recipe are for these pixels.
    model.backbone.depth, model.backbone.frozen_stages = 18, 4
    model.fpn.channels = model.mask_head.channels = 64
    model.box_head.features = 128
    model.rpn.anchor_sizes = (8.0, 16.0, 32.0, 64.0, 128.0)
    model.rpn.num_samples, model.rpn.num_candidates, model.rpn.num_proposals = 512, 200, 200
    model.roi.num_samples = 48
    return found


def examples() -> list[Example]:
    """Two images with overlapping ellipses, two equal squares, and others."""
    random = np.random.default_rng(5)
    return [_with_squares(small.draw(random, size, 3)) for size in SIZES]


def _with_squares(example: Example) -> Example:
    """Adds squares where the RPN has an anchor, and one that is smaller than any anchor."""
    masks, boxes = list(example.masks), list(example.boxes)
    for left, top, side in ((16, 8, 16), (16, 8, 16), (18, 8, 16), (2, 3, 3)):
        bitmap = np.zeros(example.image.shape[:2], np.uint8)
        bitmap[top : top + side, left : left + side] = 1
        masks.append(rle.encode_bitmap(bitmap))
        boxes.append(np.array([left, top, left + side, top + side]))
    classes, boxes = np.append(example.classes, [1, 2, 3, 4]), np.array(boxes)
    return example._replace(
        boxes=boxes.astype(np.float32), classes=classes.astype(np.int32), masks=masks
    )


def variables(library: str) -> dict:
    """The weights of the recipe."""
    model = config(library).model
    return torchvision.from_state_dict(recipe.state_dict(model), model)


def read(library: str) -> Recording:
    """Reads the recording of a library."""
    with np.load(small.FOLDER / f"{library}-training.npz") as file:
        arrays = dict(file)

    def drawn(name: str) -> list[Drawn]:
        return [
            Drawn(*(arrays[f"{name}/{i}/{field}"] for field in Drawn._fields))
            for i in range(len(SIZES))
        ]

    def named(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}

    return Recording(
        {name: float(loss) for name, loss in named("losses/").items()},
        drawn("anchors"),
        drawn("rois"),
        [arrays[f"proposals/{i}"] for i in range(len(SIZES))],
        np.unpackbits(arrays["mask_targets"], axis=-1)[..., :28].astype(np.float32),
        named("outputs/"),
        named("gradients/"),
    )
