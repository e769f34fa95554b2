"""Small models, images and objects from a seed, for recordings of other programs.

`write_torchvision` and `write_families` make the recordings.
"""

from pathlib import Path

import numpy as np
from flax import traverse_util
from pycocotools import mask as coco_mask

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config, DetectionConfig
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.model_config import RoIConfig, RPNConfig
from maskrcnn_jax.parity import recipe
from maskrcnn_jax.parity.records import Stages

FOLDER = Path(__file__).parent
SHORT_SIDE, MAX_LONG_SIDE = 128, 1333  # Pixels of the resized images.
SAMPLES = 300  # The number of recorded values of each large array.
VARIANTS = ("v1", "v1-batch-norm", "v2")  # The recorded models of torchvision.
FAMILIES = ("detectron2_r50_fpn", "mmdet_r50_fpn")  # Those of Detectron2 and MMDetection.
WHOLE = ("proposals", "boxes", "labels", "scores")  # Recorded in full; other arrays are sampled.
# Recorded in full for Detectron2 and MMDetection: inputs of our stages.
FAMILY_WHOLE = (
    *WHOLE,
    *(f"pyramid{level}" for level in range(2, 6)),
    *(f"{name}{level}" for name in ("objectness", "deltas") for level in range(2, 7)),
    *("class_logits", "class_deltas", "mask_logits"),
)
FAMILY_SHORT_SIDE = 96


def config(variant: str) -> Config:
    """torchvision's model of this name with a ResNet-18 and narrow heads.

    Only the last stage of the backbone trains.
    """
    model = recipe.config(variant)
    model.num_classes = 5
    model.backbone.depth, model.backbone.frozen_stages = 18, 4
    model.fpn.channels = model.box_head.channels = 64
    model.box_head.features = 128
    if model.mask_head is not None:
        model.mask_head.channels = 64
    model.rpn = RPNConfig(num_convs=model.rpn.num_convs, num_candidates=200, num_proposals=200)
    model.roi = RoIConfig(num_samples=48)
    detection = DetectionConfig(num_candidates=200, num_proposals=150, num_detections=40)
    return Config(model=model, detection=detection)


def family_config(name: str) -> Config:
    """A model of Detectron2 or MMDetection with a narrow ResNet-50 and narrow heads."""
    config = presets.OF_OTHERS[name](5)
    model = config.model
    # The recorded weights are ordered by collection, and norms with fixed statistics detect as
    # frozen ones do.
    model.backbone.norm = "frozen_batch"
    model.backbone.stem_channels, model.fpn.channels = 8, 8
    model.box_head.features = 64
    model.mask_head.channels, model.mask_head.num_convs = 16, 1
    config.detection.num_candidates, config.detection.num_proposals = 200, 100
    config.detection.num_detections = 30
    return config


def examples() -> list[Example]:
    """Draws two images of different sizes with overlapping ellipses, without antialiasing."""
    random = np.random.default_rng(1)
    return [draw(random, (150, 200), 3), draw(random, (200, 130), 4)]


def draw(random: np.random.Generator, size: tuple[int, int], num_objects: int) -> Example:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    waves = [np.sin(x / random.uniform(3, 30) + y / random.uniform(3, 30)) for _ in range(3)]
    image = 120 + 40 * np.stack(waves, axis=2) + random.normal(0, 10, (*size, 3))
    masks, boxes = [], []
    for _ in range(num_objects):
        center = random.uniform(0.25, 0.75, 2) * size
        radius = random.uniform(0.08, 0.25, 2) * size
        mask = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
        image[mask] = random.uniform(0, 255, 3) + random.normal(0, 10, (mask.sum(), 3))
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        masks.append({"size": list(size), "counts": encoded["counts"].decode("ascii")})
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    classes = random.integers(1, 5, num_objects).astype(np.int32)
    return Example(image, num_objects, np.array(boxes, np.float32), classes, masks)


def inference_arrays(stages: Stages) -> dict[str, np.ndarray]:
    """The stages of one image by name."""
    outcome = stages.outcome
    by_level = {"backbone": stages.backbone, "pyramid": stages.pyramid}
    by_level |= {"objectness": outcome.objectness, "deltas": outcome.deltas}
    arrays = {
        f"{name}{level}": array
        for name, levels in by_level.items()
        for level, array in levels.items()
    }
    arrays |= {name: getattr(outcome, name) for name in ("class_logits", "class_deltas", *WHOLE)}
    arrays |= {"image": stages.image, "box_features": stages.box_features}
    return arrays | {"mask_logits": stages.mask_logits}


def flat(variables: dict) -> np.ndarray:
    """All weights in one array, in the order of their paths."""
    leaves = sorted(traverse_util.flatten_dict(variables).items())
    return np.concatenate([np.ravel(leaf) for _, leaf in leaves])


def sample(array: np.ndarray) -> np.ndarray:
    """At most `SAMPLES` evenly spaced values of an array."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(np.int64)]


def statistics(state: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """A few values of each norm's running statistics, ``running_mean`` or ``running_var``."""
    arrays = [array for name, array in state.items() if name.endswith(kind)]
    return np.concatenate([array[:: max(1, len(array) // 16)] for array in arrays])
