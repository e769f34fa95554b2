"""The recipes by name: what a run trains, on which data, for how many steps."""

import json
from pathlib import Path
from typing import Any

from configs import nuclei, your_data
from maskrcnn_jax import whole_files
from maskrcnn_jax.cli import config_file
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import annotation_files

COMPARISON = "comparison"
BEST = "best"
NUM_FOLDS = 5
FRUITS = tuple(f"fruits-{fold}" for fold in range(NUM_FOLDS))
SHORT = "short"  # The baseline of the ingredients.
# The fields of the baseline that each ingredient changes.
INGREDIENTS: dict[str, tuple[str, ...]] = {
    "average": ("optimizer.average_decay=0.99",),
    "cosine": ("optimizer.schedule=cosine",),
    "jitter": (
        "data.jitter=(0.5, 2.0)",
        "data.jitter_side=320",
        "data.buckets=((320, 320),)",
    ),
    "copy-paste": ("data.copy_paste=0.5",),
    "adamw": (
        "optimizer.name=adamw",
        "optimizer.learning_rate=4e-4",
        "optimizer.weight_decay=0.05",
        "optimizer.decay=kernels",
    ),
}
NAMES = (COMPARISON, BEST, SHORT, *(f"{SHORT}-{name}" for name in INGREDIENTS), *FRUITS)


def recipe(name: str, seed: int, data: Path, start: str, workdir: Path) -> Config:
    """Makes the config of a run.

    Args:
        name: One of `NAMES`.
        seed: Of the run.
        data: A folder with ``nuclei`` and ``fruits_nuts``, each with images and annotations.
        start: The file with the weights of the backbone; for fruits, those of a whole detector.
        workdir: Folder of the run. The annotations of a fold are written there.

    Raises:
        ValueError: There is no such recipe.
    """
    if name not in NAMES:
        raise ValueError(f"--recipe must be one of {', '.join(NAMES)}; got {name}")
    if name in FRUITS:
        config = _fruits(data / "fruits_nuts", FRUITS.index(name), workdir)
        config.weights, config.fresh_heads = start, True
    else:
        config = _nuclei(name, data / "nuclei")
        config.backbone_weights = start
    config.seed = seed
    return config


def _nuclei(name: str, folder: Path) -> Config:
    config = nuclei.get_config() if name == BEST else _comparison()
    if name.startswith(SHORT):
        _shorten(config)
        for setting in INGREDIENTS.get(name.removeprefix(f"{SHORT}-"), ()):
            config_file.override(config, setting)
    for split in ("train", "val"):
        setattr(config.data, f"{split}_images", str(folder / split))
        setattr(config.data, f"{split}_annotations", str(folder / f"instances_{split}.json"))
    return config


def _comparison() -> Config:
    """torchvision's recipe for the nuclei, in 405 steps of 4 images.

    A tenth of the learning rate remains after 75 % of the steps, and a tenth of that after 92 %.
    """
    config = nuclei.get_config()
    config.num_steps, config.log_every, config.save_every = 405, 15, 45
    config.optimizer.learning_rate = 0.04  # 0.01 for 4 images.
    config.optimizer.warmup_steps = 100
    config.optimizer.decay_steps = (304, 373)
    config.data.crop_size = 320
    config.data.mask_store = "full"  # The mask targets of torchvision come from bitmaps.
    config.model.mask_head.max_samples = None
    return config


def _shorten(config: Config) -> None:
    config.num_steps, config.log_every, config.save_every = 200, 10, 50
    config.optimizer.warmup_steps = 50
    config.optimizer.decay_steps = (150, 184)


def _fruits(folder: Path, fold: int, workdir: Path) -> Config:
    """Starts from a model of the nuclei, with its preprocessing and anchors."""
    config, start = your_data.get_config(), nuclei.get_config().model
    config.num_steps, config.evaluate_every = 150, 0
    model = config.model
    model.num_classes = 4
    model.backbone.stride_in_1x1 = start.backbone.stride_in_1x1
    model.backbone.norm_eps = start.backbone.norm_eps
    model.image_mean, model.image_std = start.image_mean, start.image_std
    model.rpn.anchor_sizes = start.rpn.anchor_sizes
    annotations = annotation_files.load(folder / "instances_train.json")
    workdir.mkdir(parents=True, exist_ok=True)
    for split, content in zip(("train", "val"), divide(annotations, fold), strict=True):
        path = workdir / f"fold_{split}.json"
        whole_files.write_text(path, json.dumps(content))
        setattr(config.data, f"{split}_images", str(folder / "train"))
        setattr(config.data, f"{split}_annotations", str(path))
    return config


def divide(annotations: dict[str, Any], fold: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The annotations of all other folds, and those of a fold: every fifth image by its id."""
    ids = sorted(image["id"] for image in annotations["images"])
    held_out = set(ids[fold::NUM_FOLDS])

    def part(is_held_out: bool) -> dict[str, Any]:
        images = [x for x in annotations["images"] if (x["id"] in held_out) == is_held_out]
        objects = annotations["annotations"]
        kept = [x for x in objects if (x["image_id"] in held_out) == is_held_out]
        return annotations | {"images": images, "annotations": kept}

    return part(False), part(True)
