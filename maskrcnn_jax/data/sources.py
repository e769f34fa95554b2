"""Opens the data sets that a config names: training images, validation images, ground truth."""

import functools
from collections.abc import Callable
from typing import Any

from maskrcnn_jax.config import DataConfig, ModelConfig
from maskrcnn_jax.data import ground_truth
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.dataset import AnnotatedDataset
from maskrcnn_jax.data.prepared import PreparedDataset
from maskrcnn_jax.data.shapes import ShapesDataset

TRAIN_SEED, VAL_SEED = 0, 1  # Fixed, so that all runs have the same synthetic images.


def open_train(
    config: DataConfig, categories: Categories | None = None, *, masks: bool = True
) -> AnnotatedDataset:
    """Opens the training images.

    Args:
        config: ``config.source`` is "coco", "tfds" or "shapes".
        categories: The map from labels to categories; the data set's own categories by default.
        masks: Whether every object needs a mask; see `CocoDataset`.

    Raises:
        FileNotFoundError: Files of the data set are missing.
        ValueError: The source is unknown, a category of the data is not in the map, or the
            annotations are broken.
    """
    if config.source == "coco":
        files = config.train_images, config.train_annotations
        opened = functools.partial(CocoDataset, *files, crowd=config.crowd, strict=config.strict)
    elif config.source == "tfds":
        opened = functools.partial(PreparedDataset, config.tfds_dir, "train")
    else:
        return _shapes(config, config.shapes_num_train, TRAIN_SEED, categories)
    opened = functools.partial(opened, keep_empty=config.keep_empty, masks=masks)
    return _labelled(opened, categories)


def open_val(
    config: DataConfig, categories: Categories | None = None, *, masks: bool = True
) -> tuple[AnnotatedDataset, dict[str, Any]]:
    """Opens all validation images, including those without objects, and their annotations.

    The annotations are completed for evaluation by `ground_truth.complete`. They have the category
    ids of the data set, whatever ``categories`` is. Arguments and errors as in `open_train`.
    """
    if config.source == "coco":
        files = config.val_images, config.val_annotations
        opened = functools.partial(CocoDataset, *files, crowd=config.crowd, strict=config.strict)
    elif config.source == "tfds":
        opened = functools.partial(PreparedDataset, config.tfds_dir, "val")
    else:
        dataset = _shapes(config, config.shapes_num_val, VAL_SEED, categories)
        return dataset, dataset.annotations()
    opened = functools.partial(opened, keep_empty=True, masks=masks)
    dataset = _labelled(opened, categories)
    return dataset, ground_truth.complete(dataset.annotations(), masks)


def _labelled(
    open_dataset: Callable[..., AnnotatedDataset], categories: Categories | None
) -> AnnotatedDataset:
    """Opens a data set, with the labels of ``categories`` if these differ from its own."""
    dataset = open_dataset()
    if categories in (None, dataset.categories):
        return dataset
    check_known(categories, dataset.categories)
    return open_dataset(categories=categories)


def _shapes(
    config: DataConfig, num_images: int, seed: int, categories: Categories | None
) -> ShapesDataset:
    _check_source(config)
    dataset = ShapesDataset(num_images, config.shapes_image_size, seed)
    if categories is not None:
        check_known(categories, dataset.categories)
        if categories.ids[: len(dataset.categories)] != dataset.categories.ids:
            raise ValueError(
                f"the model has the ids {categories.ids}, synthetic shapes {dataset.categories.ids}"
            )
        dataset.categories = categories
    return dataset


def _check_source(config: DataConfig) -> None:
    if config.source != "shapes":
        raise ValueError(f'data.source must be "coco", "tfds" or "shapes", got {config.source!r}')


def check_known(model: Categories, data: Categories) -> None:
    """Raises ValueError if the data set has a category that the model does not know.

    Both the id and the name must match. For a model with unknown names, see `Categories.numbered`,
    the id is enough. The model may know more categories than the data set has.
    """
    for category_id, name in zip(data.ids, data.names, strict=True):
        if category_id not in model.ids:
            raise ValueError(
                f"the model does not know category {category_id} {name!r} of the data set"
            )
        ours = model.name(model.label(category_id))
        if ours not in (name, f"class {category_id}"):
            raise ValueError(
                f"category {category_id} is {name!r} in the data set, but {ours!r} for the model"
            )


def check_categories(config: ModelConfig, train: Categories, val: Categories) -> None:
    """Checks the categories of the training set and the validation set against the model.

    Raises ValueError if the two sets differ in their categories, or if ``config.num_classes`` is
    not the number of categories plus one for background.
    """
    if train != val:
        raise ValueError(
            f"the training set has the categories {train.to_json()}, "
            f"the validation set {val.to_json()}"
        )
    if config.num_classes != len(train) + 1:
        raise ValueError(
            f"config.model.num_classes must be {len(train) + 1}, the {len(train)} categories of "
            f"the data set and background; got {config.num_classes}"
        )
