"""Opens the data sets that a config names: training images, validation images, ground truth."""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

from maskrcnn_jax.config import DataConfig, TrainSet
from maskrcnn_jax.data import ground_truth, lvis
from maskrcnn_jax.data import joint as joint_sets
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.dataset import AnnotatedDataset
from maskrcnn_jax.data.findings import short
from maskrcnn_jax.data.joint import JointDataset
from maskrcnn_jax.data.prepared import PreparedDataset
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.model_config import ModelConfig

TRAIN_SEED, VAL_SEED = 0, 1  # Fixed, so that all runs have the same synthetic images.


def open_train(
    config: DataConfig,
    categories: Categories | None = None,
    *,
    masks: bool = True,
    num_channels: int | None = 3,
) -> AnnotatedDataset:
    """Opens the training images.

    Args:
        config: ``config.source`` is "coco", "tfds" or "shapes". With ``config.train`` the result is
            a `JointDataset` of these sets.
        categories: The map from labels to categories; the data set's own categories by default.
        masks: Whether every object needs a mask; see `CocoDataset`.
        num_channels: The number of channels of the images; see `CocoDataset`.

    Raises:
        FileNotFoundError: Files of the data set are missing.
        ValueError: The source is unknown, a category of the data is not in the map, or the
            annotations are broken.
    """
    kept = {"keep_empty": config.keep_empty, "keep_rule": config.keep_rule}
    kept |= {"num_channels": num_channels, "image_dtype": config.image_dtype}
    kept |= {"min_side": config.min_side, "masks": masks}
    if config.train:
        return _open_several(config, categories, kept)
    if config.source not in ("coco", "tfds"):
        return _shapes(config, config.shapes_num_train, TRAIN_SEED, categories)
    files = config.train_images, config.train_annotations
    files = (config.tfds_dir, "") if config.source == "tfds" else files
    return _labelled(_opener(config, *files, kept), categories)


def _opener(
    config: DataConfig, images: str, annotations: str, kept: dict[str, Any]
) -> Callable[..., AnnotatedDataset]:
    """A function that opens a training set: COCO json, or prepared images without annotations."""
    if not annotations:
        return functools.partial(PreparedDataset, *_home(images), "train", **kept)
    rules = {"crowd": config.crowd, "strict": config.strict}
    return functools.partial(CocoDataset, *_home(images, annotations), **rules, **kept)


def _open_several(
    config: DataConfig, categories: Categories | None, kept: dict[str, Any]
) -> JointDataset:
    """Opens the sets of ``config.train``; arguments and errors as in `open_train`."""
    entries = [TrainSet(*entry) for entry in config.train]
    names = [entry.annotations or entry.images for entry in entries]
    openers = [_opener(config, entry.images, entry.annotations, kept) for entry in entries]
    sets = [open_set() for open_set in openers]
    for name, dataset in zip(names, sets, strict=True):
        if not len(dataset):
            why = getattr(dataset, "why_empty", f"{name} has none")
            raise ValueError(f"data.train: a set has no images: {why}")
    joint = joint_sets.join([(x, y.categories) for x, y in zip(names, sets, strict=True)])
    joint = joint if categories is None else matched(categories, joint)
    for position, dataset in enumerate(sets):
        if dataset.categories != joint:
            own = matched(joint, dataset.categories, "the list of data.train")
            sets[position] = openers[position](categories=own)
    weights = [entry.weight for entry in entries]
    return JointDataset(list(zip(names, sets, strict=True)), weights, joint)


def open_val(
    config: DataConfig,
    categories: Categories | None = None,
    *,
    masks: bool = True,
    num_channels: int | None = 3,
    known_by: str = "the model",
) -> tuple[AnnotatedDataset, dict[str, Any]]:
    """Opens all validation images, including those without objects, and their annotations.

    The annotations are completed for evaluation by `ground_truth.complete`. They have the category
    ids of the data set, whatever ``categories`` is. Arguments and errors as in `open_train`;
    ``known_by`` is what has ``categories``, for messages.
    """
    if config.source == "coco":
        files = _home(config.val_images, config.val_annotations)
        opened = functools.partial(CocoDataset, *files, crowd=config.crowd, strict=config.strict)
    elif config.source == "tfds":
        opened = functools.partial(PreparedDataset, *_home(config.tfds_dir), "val")
    else:
        dataset = _shapes(config, config.shapes_num_val, VAL_SEED, categories)
        return dataset, dataset.annotations()
    pixels = {"num_channels": num_channels, "image_dtype": config.image_dtype}
    opened = functools.partial(opened, keep_empty=True, masks=masks, **pixels)
    dataset = _labelled(opened, categories, known_by)
    completed = ground_truth.complete(dataset.annotations(), masks)
    lvis.is_lvis(completed)  # Says at once what AP will lack.
    return dataset, completed


def _labelled(
    open_dataset: Callable[..., AnnotatedDataset],
    categories: Categories | None,
    known_by: str = "the model",
) -> AnnotatedDataset:
    """Opens a data set, with the labels of ``categories`` if these differ from its own."""
    dataset = open_dataset()
    if categories in (None, dataset.categories):
        return dataset
    return open_dataset(categories=matched(categories, dataset.categories, known_by))


def _home(*paths: str) -> list[str]:
    """Puts the home folder for a tilde at the start of each path."""
    return [os.path.expanduser(path) for path in paths]


def _shapes(
    config: DataConfig, num_images: int, seed: int, categories: Categories | None
) -> ShapesDataset:
    _check_source(config)
    dataset = ShapesDataset(num_images, config.shapes_image_size, seed)
    if categories is not None:
        categories = matched(categories, dataset.categories)
        if categories.ids[: len(dataset.categories)] != dataset.categories.ids:
            raise ValueError(
                f"the model has the ids {categories.ids}, synthetic shapes {dataset.categories.ids}"
            )
        dataset.categories = categories
    return dataset


def _check_source(config: DataConfig) -> None:
    if config.source != "shapes":
        raise ValueError(f'data.source must be "coco", "tfds" or "shapes", got {config.source!r}')


def matched(model: Categories, data: Categories, known_by: str = "the model") -> Categories:
    """The categories of a data set in the order of a model's labels.

    Categories are the same if id and name are. Otherwise names decide, without regard to upper and
    lower case. If the names of the model are unknown, see `Categories.numbered`, its ids decide,
    or the order of the ids if the numbers of categories are equal. The model may know more
    categories than the data set has.

    Raises ValueError if the data set has a category that the model does not know.
    """
    strangers = [pair for pair in _pairs(data) if not _knows(model, *pair)]
    if not strangers:
        return model
    is_nameless = model == Categories.numbered(len(model))
    if is_nameless and len(model) == len(data):
        return Categories.from_json(sorted(data.to_json(), key=lambda entry: entry["id"]))
    labels = {name: model.names.index(own) for own in model.names for name in [_plain(own)]}
    found = {labels[_plain(name)]: (i, name) for i, name in _pairs(data) if _plain(name) in labels}
    if is_nameless or len(found) < len(data) or len(labels) < len(model):
        unknown = [pair for pair in strangers if _plain(pair[1]) not in labels] or strangers
        category_id, name = unknown[0]
        own = "" if category_id not in model.ids else f", which is {_name(model, category_id)!r}"
        advice = "rename categories in one of them"
        if known_by == "the model":
            advice = "rename the categories, or train with --config.fresh_heads=True, which starts "
            advice += "the layers of the classes anew"
        raise ValueError(
            f"{known_by} does not know category {category_id} {name!r} of the data set{own}; it "
            f"knows {short(', '.join(model.names), 200)}: {advice}"
        )
    taken = set(data.ids)
    free = (i for i in itertools.count(1) if i not in taken)
    pairs = [found.get(label) or (next(free), name) for label, name in enumerate(model.names)]
    return Categories(tuple(i for i, _ in pairs), tuple(name for _, name in pairs))


def _pairs(categories: Categories) -> list[tuple[int, str]]:
    return list(zip(categories.ids, categories.names, strict=True))


def _name(categories: Categories, category_id: int) -> str:
    return categories.name(categories.label(category_id))


def _knows(model: Categories, category_id: int, name: str) -> bool:
    """Whether a model has a category, by its id and its name if it has one."""
    return category_id in model.ids and _name(model, category_id) in (name, f"class {category_id}")


def _plain(name: str) -> str:
    return name.strip().casefold()


def check_categories(config: ModelConfig, train: Categories) -> None:
    """Raises ValueError if a model has another number of classes than a training set."""
    if config.num_classes != len(train) + 1:
        raise ValueError(
            f"config.model.num_classes must be {len(train) + 1}, the {len(train)} categories of "
            f"the data set and background; got {config.num_classes}"
        )
