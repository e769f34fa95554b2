"""What both sides of the comparison with torchvision start from: weights, pictures and objects from a seed.

Random weights, but such that every stage has something to do: features neither vanish nor explode, objectness and class
scores spread, and boxes move.
"""

from typing import NamedTuple

import numpy as np

from maskrcnn_jax import images
from maskrcnn_jax.config import DetectionConfig, ModelConfig, RoIConfig, RPNConfig
from maskrcnn_jax.weights import torchvision

SHORT_SIDE, MAX_LONG_SIDE = 160, 1333  # Pixels, of the resized pictures.
SAMPLES = 400  # Values kept of each large array.

# Gain of the heads' last layers, found by trial: a few hundred detections of several classes.
GAINS = {
    "rpn.head.cls_logits.weight": 3.0,
    "rpn.head.bbox_pred.weight": 0.3,
    "roi_heads.box_predictor.cls_score.weight": 1.3,
    "roi_heads.box_predictor.bbox_pred.weight": 1.5,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 2.0,
}


class Example(NamedTuple):
    """A picture with its objects, before resizing."""

    image: np.ndarray  # uint8 [h, w, 3]
    masks: np.ndarray  # bool [g, h, w]
    boxes: np.ndarray  # float32 [g, 4]
    classes: np.ndarray  # int32 [g]


def small_config() -> ModelConfig:
    """A model whose outputs fit into a small file and whose tests are fast."""
    return ModelConfig(
        depth=18,
        num_classes=5,
        rpn=RPNConfig(
            train_num_candidates=200, train_num_proposals=200, test_num_candidates=200, test_num_proposals=150
        ),
        roi=RoIConfig(num_samples=48),
        detection=DetectionConfig(num_detections=40),
    )


def state_dict(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by torchvision's names, float32."""
    random = np.random.default_rng(seed)
    state = {}
    for entry in torchvision.entries(config):
        name, shape = entry.name, entry.shape
        if name.endswith("running_var"):
            array = random.uniform(0.5, 1.5, shape)
        elif name.endswith("running_mean") or name.endswith("bias"):
            array = random.normal(0, 0.1, shape)
        elif len(shape) == 1:
            array = random.uniform(0.8, 1.2, shape) * _norm_gain(name, config.depth)
        else:
            array = _weight(random, name, shape)
        state[name] = array.astype(np.float32)
    return state


def _norm_gain(name: str, depth: int) -> float:
    """The last norm of a block is small, so that the sum over the blocks of a stage stays bounded."""
    last = ".bn3." if depth >= 50 else ".bn2."
    return 0.5 if last in name else 1.0


def _weight(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """He's rule keeps the size of activations; without a mean over the inputs, positive ones do not drown the rest."""
    inputs = 0 if "conv5_mask" in name else tuple(range(1, len(shape)))
    weight = random.normal(size=shape)
    weight -= weight.mean(axis=inputs, keepdims=True)
    fan_in = shape[0] if "conv5_mask" in name else np.prod(shape[1:])
    gain = 1.0 if "fpn" in name or "downsample" in name else 2.0
    return weight * GAINS.get(name, 1.0) * np.sqrt(gain / fan_in)


def examples() -> list[Example]:
    """Two pictures of different sizes with overlapping ellipses, drawn without antialiasing."""
    random = np.random.default_rng(1)
    return [_draw(random, (150, 200), 3), _draw(random, (200, 130), 4)]


def _draw(random: np.random.Generator, size: tuple[int, int], num_objects: int) -> Example:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    waves = [np.sin(x / random.uniform(3, 30) + y / random.uniform(3, 30)) for _ in range(3)]
    image = 120 + 40 * np.stack(waves, axis=2) + random.normal(0, 10, (*size, 3))
    masks = []
    for _ in range(num_objects):
        center = random.uniform(0.25, 0.75, 2) * size
        radius = random.uniform(0.08, 0.25, 2) * size
        mask = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
        image[mask] = random.uniform(0, 255, 3) + random.normal(0, 10, (mask.sum(), 3))
        masks.append(mask)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    boxes = np.array([_box(mask) for mask in masks], np.float32)
    return Example(image, np.array(masks), boxes, random.integers(1, 5, num_objects).astype(np.int32))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def pad(pictures: list[np.ndarray], bucket: tuple[int, int]) -> np.ndarray:
    """Resized pictures at the top left of one bucket, float32 ``[b, h, w, 3]``."""
    batch = np.zeros((len(pictures), *bucket, 3), np.float32)
    for slot, picture in zip(batch, pictures, strict=True):
        slot[: picture.shape[0], : picture.shape[1]] = picture
    return batch


def resized(picture: np.ndarray, short_side: int, max_long_side: int) -> np.ndarray:
    """A picture as the model sees it, float32 in [0, 1]."""
    return images.resize(picture, images.resized_size(picture.shape[:2], short_side, max_long_side))


def sample(array: np.ndarray) -> np.ndarray:
    """At most `SAMPLES` values of a large array, evenly spread over it."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(np.int64)]
