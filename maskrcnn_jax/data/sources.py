"""The data sets an experiment names: its training images, and its validation images with their ground truth."""

import json
from pathlib import Path
from typing import Any

from maskrcnn_jax.config import DataConfig, ModelConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.shapes import ShapesDataset

Dataset = CocoDataset | ShapesDataset

TRAIN_SEED, VAL_SEED = 0, 1  # Of the synthetic set: its images never change from run to run.


def open_train(config: DataConfig) -> Dataset:
    """Opens the training images. Raises what `CocoDataset` raises, and ValueError for an unknown source."""
    if config.source == "coco":
        return CocoDataset(config.train_images, config.train_annotations, keep_empty=config.keep_empty)
    _check_source(config)
    return ShapesDataset(config.shapes_num_train, config.shapes_image_size, TRAIN_SEED)


def open_val(config: DataConfig) -> tuple[Dataset, dict[str, Any]]:
    """Opens the validation images, those without objects included, and their annotations in COCO's format."""
    if config.source == "coco":
        dataset = CocoDataset(config.val_images, config.val_annotations, keep_empty=True)
        return dataset, json.loads(Path(config.val_annotations).read_text())
    _check_source(config)
    dataset = ShapesDataset(config.shapes_num_val, config.shapes_image_size, VAL_SEED)
    return dataset, dataset.annotations()


def _check_source(config: DataConfig) -> None:
    if config.source != "shapes":
        raise ValueError(f'data.source must be "coco" or "shapes", got {config.source!r}')


def check_categories(config: ModelConfig, train: Categories, val: Categories) -> None:
    """Raises ValueError unless the model has a class for each category, and both sets have the same categories."""
    if train != val:
        raise ValueError(f"the training set has the categories {train.to_json()}, the validation set {val.to_json()}")
    if config.num_classes != len(train) + 1:
        raise ValueError(
            f"config.model.num_classes must be {len(train) + 1}, the {len(train)} categories of the data set and "
            f"background; got {config.num_classes}"
        )
