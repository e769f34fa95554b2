"""Reading what the builder `coco_instances` has written, as if it were `CocoDataset`."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from maskrcnn_jax import images
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import Example

VERSION = "1.0.0"  # Of the layout on disk.
ANNOTATIONS = "annotations.json.gz"


def folder(directory: Path, split: str) -> Path:
    """Where a split lies in the directory that was prepared: what `tfds.builder_from_directory` takes."""
    return directory / split / "coco_instances" / VERSION


class PreparedDataset:
    """Random access to the images of a prepared split; examples, sizes and ids are those of `CocoDataset`.

    Args:
        directory: What was prepared.
        split: One of its splits.
        keep_empty: Whether images stay in the set that have nothing to learn from.
        categories: Labels follow this map. By default they number the categories of the data by ascending id.

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
        categories: Categories | None = None,
    ):
        self.folder = folder(Path(directory), split)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no {split!r} images were prepared in {directory}: there is no {self.folder}")
        import tensorflow_datasets as tfds  # It takes a second, and runs with other data need not wait for it.

        builder = tfds.builder_from_directory(self.folder)
        self._metadata = builder.info.metadata
        data_categories = Categories.from_json(self._metadata["categories"])
        self.categories = categories or data_categories
        self._labels = {category_id: self.categories.label(category_id) for category_id in data_categories.ids}
        self._records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        self._kept = np.flatnonzero(np.array(self._metadata["has_objects"]) | keep_empty)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Reads one image. Raises IndexError beyond the end, so that a set can be iterated over, and OSError."""
        position = int(self._kept[index])
        try:
            record = self._records[position]
        except RuntimeError as error:  # ArrayRecord raises nothing else; it checks sums, so damage is noticed.
            image_id = self._metadata["image_ids"][position]
            raise OSError(f"cannot read image id {image_id} from {self.folder}: {error}") from error
        classes = [self._labels[category_id] for category_id in record["category_ids"].tolist()]
        return Example(
            image=images.decode_image(record["image"]),
            image_id=int(record["image_id"]),
            boxes=record["boxes"].reshape(-1, 4),
            classes=np.array(classes, np.int32),
            masks=json.loads(record["masks"]),
        )

    @property
    def sizes(self) -> Int64[np.ndarray, "n 2"]:
        """Height and width of every image."""
        return np.array(self._metadata["sizes"], np.int64)[self._kept]

    @property
    def image_ids(self) -> Int64[np.ndarray, " n"]:
        """COCO's id of every image."""
        return np.array(self._metadata["image_ids"], np.int64)[self._kept]

    @property
    def file_names(self) -> list[str]:
        """The name that the annotation file had for every image."""
        return [self._metadata["file_names"][index] for index in self._kept]

    def annotations(self) -> dict[str, Any]:
        """The content of the annotation file, crowds and all."""
        with gzip.open(self.folder / ANNOTATIONS, "rt", encoding="utf-8") as file:
            return json.load(file)
