"""The data sets an experiment names: its training images, and its validation images with their ground truth."""

import functools
import json
from collections.abc import Callable
from typing import Any

from maskrcnn_jax.config import DataConfig, ModelConfig
from maskrcnn_jax.data import ground_truth
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.prepared import PreparedDataset
from maskrcnn_jax.data.shapes import ShapesDataset

Dataset = CocoDataset | PreparedDataset | ShapesDataset

TRAIN_SEED, VAL_SEED = 0, 1  # Of the synthetic set: its images never change from run to run.


def open_train(config: DataConfig, categories: Categories | None = None) -> Dataset:
    """Opens the training images; labels are those of ``categories``, by default the data set's own.

    Raises what `CocoDataset` and `PreparedDataset` raise, and ValueError for an unknown source or a category that is
    not in the map.
    """
    if config.source == "coco":
        files = config.train_images, config.train_annotations
        return _labelled(functools.partial(CocoDataset, *files, keep_empty=config.keep_empty), categories)
    if config.source == "tfds":
        split = config.tfds_dir, "train"
        return _labelled(functools.partial(PreparedDataset, *split, keep_empty=config.keep_empty), categories)
    return _shapes(config, config.shapes_num_train, TRAIN_SEED, categories)


def open_val(config: DataConfig, categories: Categories | None = None) -> tuple[Dataset, dict[str, Any]]:
    """Opens the validation images, those without objects included, and their annotations, completed for an evaluation.

    Labels and errors as in `open_train`; the annotations have the category ids of the data set in any case.
    """
    if config.source == "coco":
        files = config.val_images, config.val_annotations
        dataset = _labelled(functools.partial(CocoDataset, *files, keep_empty=True), categories)
        return dataset, ground_truth.complete(json.loads(dataset.annotation_file.read_text(encoding="utf-8")))
    if config.source == "tfds":
        split = config.tfds_dir, "val"
        dataset = _labelled(functools.partial(PreparedDataset, *split, keep_empty=True), categories)
        return dataset, ground_truth.complete(dataset.annotations())
    dataset = _shapes(config, config.shapes_num_val, VAL_SEED, categories)
    return dataset, dataset.annotations()


def _labelled(open_dataset: Callable[..., Dataset], categories: Categories | None) -> Dataset:
    """Opens a data set with the labels of ``categories``, if they are others than its own."""
    dataset = open_dataset()
    if categories in (None, dataset.categories):
        return dataset
    check_known(categories, dataset.categories)
    return open_dataset(categories=categories)


def _shapes(config: DataConfig, num_images: int, seed: int, categories: Categories | None) -> ShapesDataset:
    _check_source(config)
    dataset = ShapesDataset(num_images, config.shapes_image_size, seed)
    if categories is not None:
        check_known(categories, dataset.categories)
        if categories.ids[: len(dataset.categories)] != dataset.categories.ids:
            raise ValueError(f"the model has the ids {categories.ids}, synthetic shapes {dataset.categories.ids}")
        dataset.categories = categories
    return dataset


def _check_source(config: DataConfig) -> None:
    if config.source != "shapes":
        raise ValueError(f'data.source must be "coco", "tfds" or "shapes", got {config.source!r}')


def check_known(model: Categories, data: Categories) -> None:
    """Raises ValueError if the data set has a category that the model does not know, by its id and its name.

    A model may know more. If nobody knows what its labels are called, see `Categories.numbered`, the id is enough.
    """
    for category_id, name in zip(data.ids, data.names, strict=True):
        if category_id not in model.ids:
            raise ValueError(f"the model does not know category {category_id} {name!r} of the data set")
        ours = model.name(model.label(category_id))
        if ours not in (name, f"class {category_id}"):
            raise ValueError(f"category {category_id} is {name!r} in the data set, but {ours!r} for the model")


def check_categories(config: ModelConfig, train: Categories, val: Categories) -> None:
    """Raises ValueError unless the model has a class for each category, and both sets have the same categories."""
    if train != val:
        raise ValueError(f"the training set has the categories {train.to_json()}, the validation set {val.to_json()}")
    if config.num_classes != len(train) + 1:
        raise ValueError(
            f"config.model.num_classes must be {len(train) + 1}, the {len(train)} categories of the data set and "
            f"background; got {config.num_classes}"
        )
