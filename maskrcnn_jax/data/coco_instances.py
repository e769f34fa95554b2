"""The TFDS builder `coco_instances`: images with instance annotations in a few large files that are read at random.

A record has an image as it was in its file, and its objects as `CocoDataset` gives them, masks as polygons or run
lengths. What is asked of all images at once is in the metadata, and the annotation file itself lies beside the
records, so that neither needs a pass over them. Written as ArrayRecord, none of it needs TensorFlow.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from maskrcnn_jax.data import coco, prepared
from maskrcnn_jax.data.coco import CocoDataset

_BYTES_PER_SHARD = 256 * 2**20  # COCO's training images become 72 files.


class CocoInstances(tfds.core.ShardBasedBuilder):
    """Writes one split of a data set, in the order of its annotation file.

    Args:
        dataset: The images, those without objects included.
        split: The name of the split.
        output: The split is written into `prepared.folder` of this directory.
        advance: Called with the number of images done since the last call.
    """

    VERSION = tfds.core.Version(prepared.VERSION)

    def __init__(self, *, dataset: CocoDataset, split: str, output: Path, advance: Callable[[int], None]):
        self._dataset, self._split, self._advance = dataset, split, advance
        self._entries = json.loads(dataset.annotation_file.read_text(encoding="utf-8"))["images"]
        super().__init__(data_dir=output / split)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(doc="The content of the image file."),
            "image_id": np.int64,
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32, doc="x0 y0 x1 y1 in pixels."),
            "category_ids": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            "masks": tfds.features.Text(doc="JSON: polygons, or a compressed run-length encoding, for each box."),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images with an outline for each object, prepared from an annotation file in COCO's format.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                source=_source(self._dataset.annotation_file),
                categories=self._dataset.categories.to_json(),
                image_ids=self._dataset.image_ids.tolist(),
                sizes=self._dataset.sizes.tolist(),
                file_names=[entry["file_name"] for entry in self._entries],
                has_objects=[],  # Known once the objects are read.
            ),
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        with gzip.open(Path(self.data_dir) / prepared.ANNOTATIONS, "wb") as file:
            file.write(self._dataset.annotation_file.read_bytes())
        num_bytes = sum((self._dataset.image_folder / entry["file_name"]).stat().st_size for entry in self._entries)
        shards = np.array_split(np.arange(len(self._dataset)), -(-num_bytes // _BYTES_PER_SHARD))
        return {self._split: [functools.partial(self._examples, shard.tolist()) for shard in shards]}

    def _examples(self, indices: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in indices:
            example = self._dataset[index]  # Decoded, so that a broken image is found now and not in a training run.
            self.info.metadata["has_objects"].append(coco.has_objects(example.boxes))
            yield (
                index,
                {
                    "image": str(self._dataset.image_folder / self._entries[index]["file_name"]),
                    "image_id": example.image_id,
                    "boxes": example.boxes,
                    "category_ids": np.array([self._dataset.categories.ids[c - 1] for c in example.classes], np.int64),
                    "masks": json.dumps(example.masks),
                },
            )
            self._advance(1)


def prepare(dataset: CocoDataset, split: str, output: Path, advance: Callable[[int], None]) -> None:
    """Writes a split, under another name until it is complete; what an interrupted attempt has left is removed.

    Args:
        dataset: The images, those without objects included.
        split: Its name, "train" or "val" for the use in training.
        advance: Called with the number of images done since the last call.

    Raises:
        OSError: An image cannot be read, the message names it and its id; or a file cannot be written.
        ValueError: There are no images, or one is not of the annotated size.
    """
    if len(dataset) == 0:
        raise ValueError(f"{dataset.annotation_file} has no images")
    target = prepared.folder(output, split)
    for leftover in target.parent.glob(f"incomplete.*_{target.name}"):
        shutil.rmtree(leftover)
    builder = CocoInstances(dataset=dataset, split=split, output=output, advance=advance)
    # TFDS makes folders for downloads and talks of them, but there are none.
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
        try:
            builder.download_and_prepare(file_format="array_record", download_dir=unused)
        except RuntimeError as error:  # ArrayRecord raises nothing else, on a full disk for instance.
            raise OSError(f"cannot write {target}: {error}") from error


def is_prepared(annotation_file: Path, split: str, output: Path) -> bool:
    """Whether a split was written, completely and from this annotation file.

    Raises:
        FileNotFoundError: There is no such annotation file.
        ValueError: The split was written from another one, or some of it is missing.
    """
    target = prepared.folder(output, split)
    if not annotation_file.is_file():
        raise FileNotFoundError(f"there is no annotation file {annotation_file}")
    if not target.exists():
        return False
    info = tfds.builder_from_directory(target).info
    if info.metadata["source"] != _source(annotation_file):
        raise ValueError(f"{target} was prepared from another annotation file than {annotation_file}")
    num_images, num_records = len(info.metadata["image_ids"]), info.splits[split].num_examples
    missing = [path for path in info.splits[split].filepaths if not Path(path).is_file()]
    if num_images != num_records or missing:
        raise ValueError(f"{target} is damaged: {num_records} records of {num_images} images, missing files {missing}")
    return True


def _source(annotation_file: Path) -> dict[str, Any]:
    content = annotation_file.read_bytes()
    return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
