"""A data set that reads the records of the builder `coco_instances`."""

import copy
import functools
import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from maskrcnn_jax import images
from maskrcnn_jax.data import coco
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Example

VERSION = "1.2.0"  # Version of the layout on disk.
ANNOTATIONS = "annotations.json.gz"


def folder(directory: Path, split: str) -> Path:
    """Returns the folder of a split, the argument of `tfds.builder_from_directory`."""
    return directory / split / "coco_instances" / VERSION


class PreparedDataset:
    """Random access to the images of a prepared split.

    Examples, sizes and ids equal those of `CocoDataset`.

    Args:
        directory: The directory that `coco_instances.prepare` wrote to.
        split: The name of the split.
        keep_empty: As in `CocoDataset`.
        keep_rule: As in `CocoDataset`.
        min_side: As in `CocoDataset`.
        masks: Whether every object needs a mask. Objects without a mask are dropped then, and one
            warning counts them.
        categories: The map from labels to categories. By default the categories of the data are
            numbered by ascending id.
        num_channels: As in `CocoDataset`.
        image_dtype: As in `CocoDataset`.

    Raises:
        FileNotFoundError: The split was not prepared.
        ValueError: A category of the data is not in the map.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        split: str,
        *,
        keep_empty: bool,
        keep_rule: str = "torchvision",
        min_side: int = 0,
        masks: bool = True,
        categories: Categories | None = None,
        num_channels: int | None = 3,
        image_dtype: str | None = "uint8",
    ):
        self.num_channels, self.image_dtype = num_channels, image_dtype
        self.folder = folder(Path(directory), split)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"no {split!r} images were prepared in {directory}: there is no {self.folder}"
            )
        # The import takes a second, which runs with other data need not spend.
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self.folder)
        self._metadata = builder.info.metadata
        data_categories = Categories.from_json(self._metadata["categories"])
        self.categories = categories or data_categories
        self._labels = {
            category_id: self.categories.label(category_id) for category_id in data_categories.ids
        }
        self._records = builder.as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        self._objects = _objects(self._metadata, masks)
        learnable = []
        for found, too_small in zip(self._objects, self._metadata["too_small"], strict=True):
            learnable.append(not set(found) <= set(() if keep_rule == "any" else too_small))
        is_large = [min(size) >= min_side for size in self._metadata["sizes"]]
        is_kept = np.array(is_large, bool) & (np.array(learnable, bool) | keep_empty)
        self._kept = np.flatnonzero(is_kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Reads one image.

        Raises:
            IndexError: The index is beyond the end. This makes the data set iterable.
            OSError: The record is damaged or cannot be read.
        """
        position = int(self._kept[index])
        try:
            record = self._records[position]
        except RuntimeError as error:  # ArrayRecord's only error, raised for a wrong checksum too.
            image_id = self._metadata["image_ids"][position]
            raise OSError(f"cannot read image id {image_id} from {self.folder}: {error}") from error
        objects, masks = self._objects[position], json.loads(record["masks"])
        return Example(
            image=self._decode(record),
            image_id=int(record["image_id"]),
            boxes=record["boxes"].reshape(-1, 4)[objects],
            classes=self._classes(position),
            masks=[masks[i] for i in objects],
        )

    def _decode(self, record: dict[str, Any]) -> images.Pixels:
        try:
            return images.decode_image(record["image"], self.num_channels, self.image_dtype)
        except OSError as error:
            raise OSError(
                f"image id {int(record['image_id'])} in {self.folder}: {error}"
            ) from error

    def check(self, index: int | np.integer) -> None:
        """Looks at the number of channels of an image, without reading its record.

        Raises OSError, which names the image, if it has another number than ``num_channels``.
        """
        position = int(self._kept[index])
        num_channels, has_alpha = self._metadata["channels"][position]
        try:
            images.check_channels(num_channels, has_alpha, self.num_channels)
        except ValueError as error:
            image_id, name = (self._metadata[x][position] for x in ("image_ids", "file_names"))
            raise OSError(f"image id {image_id}, {name}, in {self.folder}: {error}") from error

    def without(self, image_ids: Iterable[int]) -> "PreparedDataset":
        """The data set without some images."""
        rest = copy.copy(self)
        rest.__dict__.pop("labels", None)
        rest._kept = self._kept[~np.isin(self.image_ids, list(image_ids))]
        return rest

    def _classes(self, position: int) -> Int32[np.ndarray, " _"]:
        category_ids = self._metadata["category_ids"][position]
        return np.array([self._labels[category_ids[i]] for i in self._objects[position]], np.int32)

    @property
    def sizes(self) -> Int64[np.ndarray, "n 2"]:
        """Height and width of every image, in pixels."""
        return np.array(self._metadata["sizes"], np.int64)[self._kept]

    @property
    def image_ids(self) -> Int64[np.ndarray, " n"]:
        """The COCO id of every image."""
        return np.array(self._metadata["image_ids"], np.int64)[self._kept]

    @functools.cached_property
    def labels(self) -> list[Int32[np.ndarray, " _"]]:
        """The labels of the objects of every image, from 1."""
        return [self._classes(int(position)) for position in self._kept]

    @property
    def file_names(self) -> list[str]:
        """The file name of every image in the annotation file."""
        return [self._metadata["file_names"][index] for index in self._kept]

    def annotations(self) -> dict[str, Any]:
        """Returns the content of the annotation file, crowds included."""
        with gzip.open(self.folder / ANNOTATIONS, "rt", encoding="utf-8") as file:
            return json.load(file)


def _objects(metadata: dict[str, Any], masks: bool) -> list[list[int]]:
    """Returns the positions of the kept objects of every image."""
    without_mask = metadata["without_mask"] if masks else [[]] * len(metadata["image_ids"])
    dropped = dict(zip(metadata["image_ids"], map(len, without_mask), strict=True))
    coco.warn_of_dropped("objects without a mask", dropped)
    kept = []
    for found, bad in zip(metadata["category_ids"], without_mask, strict=True):
        kept.append([i for i in range(len(found)) if i not in bad])
    return kept
