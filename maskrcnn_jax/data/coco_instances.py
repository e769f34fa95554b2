"""The TFDS builder `coco_instances`: images with instance annotations, in a few large files.

A record holds the bytes of an image file and the objects that `CocoDataset` gives for the image;
masks are polygons or run lengths. The ids, sizes and labels of all images are in the metadata, and
a copy of the annotation file lies beside the records, so that neither needs a pass over the
records. The files are ArrayRecords, which allow random access and do not need TensorFlow.
"""

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from maskrcnn_jax import images
from maskrcnn_jax.data import coco, prepared
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.dataset import Example

_BYTES_PER_SHARD = 256 * 2**20  # COCO's training images become 72 files.


class CocoInstances(tfds.core.ShardBasedBuilder):
    """Writes one split of a data set, in the order of its annotation file.

    Args:
        dataset: All images, including those without objects. Open it with ``masks=False`` to keep
            objects without a mask.
        split: The name of the split.
        output: The directory to write to; the split goes to its `prepared.folder`.
        advance: Called after each image with the number of new images, 1.
    """

    VERSION = tfds.core.Version(prepared.VERSION)

    def __init__(
        self, *, dataset: CocoDataset, split: str, output: Path, advance: Callable[[int], None]
    ):
        self._dataset, self._split, self._advance = dataset, split, advance
        super().__init__(data_dir=output / split)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(doc="The content of the image file."),
            "image_id": np.int64,
            "boxes": tfds.features.Tensor(
                shape=(None, 4), dtype=np.float32, doc="x0 y0 x1 y1 in pixels."
            ),
            "category_ids": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            "masks": tfds.features.Text(
                doc="JSON: polygons, a compressed run-length encoding or null, for each box."
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images with an outline for each object, prepared from an annotation file "
            "in COCO's format.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                source=_source(self._dataset.annotation_file),
                categories=self._dataset.categories.to_json(),
                image_ids=self._dataset.image_ids.tolist(),
                sizes=self._dataset.sizes.tolist(),
                file_names=self._dataset.file_names,
                # One list for each image, appended when the image is read.
                channels=[],
                category_ids=[],
                without_mask=[],
                too_small=[],
            ),
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        with gzip.open(Path(self.data_dir) / prepared.ANNOTATIONS, "wb") as file:
            file.write(json.dumps(self._dataset.annotations()).encode())
        paths = map(self._dataset.path, range(len(self._dataset)))
        num_bytes = sum(path.stat().st_size for path in paths)
        shards = np.array_split(np.arange(len(self._dataset)), -(-num_bytes // _BYTES_PER_SHARD))
        return {
            self._split: [functools.partial(self._examples, shard.tolist()) for shard in shards]
        }

    def _examples(self, indices: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in indices:
            # Decode the image, to find a broken file now instead of in a training run.
            example = self._dataset[index]
            categories = self._dataset.categories
            category_ids = [categories.category_id(int(label)) for label in example.classes]
            self._describe(index, example, category_ids)
            record = {
                "image": str(self._dataset.path(index)),
                "image_id": example.image_id,
                "boxes": example.boxes,
                "category_ids": np.array(category_ids, np.int64),
                "masks": json.dumps(example.masks),
            }
            yield index, record
            self._advance(1)

    def _describe(self, index: int, example: Example, category_ids: list[int]) -> None:
        """Adds the metadata of an image, which `PreparedDataset` needs before it reads records."""
        metadata, header = self.info.metadata, images.header(self._dataset.path(index))
        metadata["channels"].append([header.num_channels, header.has_alpha])
        metadata["category_ids"].append(category_ids)
        metadata["without_mask"].append([i for i, mask in enumerate(example.masks) if mask is None])
        metadata["too_small"].append(np.flatnonzero(~coco.is_learnable(example.boxes)).tolist())


def prepare(dataset: CocoDataset, split: str, output: Path, advance: Callable[[int], None]) -> None:
    """Writes a split.

    The files have a temporary name until the split is complete. The remains of an interrupted
    attempt are removed.

    Args:
        dataset: All images, including those without objects.
        split: The name of the split; training uses "train" and "val".
        output: The directory that gets the split; see `prepared.folder`.
        advance: Called after each image with the number of new images, 1.

    Raises:
        OSError: An image cannot be read, and the message names it and its id; or a file cannot be
            written.
        ValueError: There are no images, or an image does not have its annotated size.
    """
    if len(dataset) == 0:
        raise ValueError(f"{dataset.annotation_file} has no images")
    target = prepared.folder(output, split)
    place = next(folder for folder in target.absolute().parents if folder.exists())
    if not shutil.disk_usage(place).free:  # The error of TFDS names no folder.
        raise OSError(f"cannot write {target}: {os.strerror(errno.ENOSPC)}")
    for leftover in target.parent.glob(f"incomplete.*_{target.name}"):
        shutil.rmtree(leftover)
    builder = CocoInstances(dataset=dataset, split=split, output=output, advance=advance)
    # TFDS makes a folder for downloads and prints about them, although nothing is downloaded.
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
        try:
            builder.download_and_prepare(file_format="array_record", download_dir=unused)
        except (RuntimeError, OSError) as error:  # ArrayRecord has no other error for full disks.
            if isinstance(error, OSError) and error.errno is None:
                raise  # An image cannot be read, and the message names it.
            raise OSError(f"cannot write {target}: {error}") from error


def is_prepared(annotation_file: Path, split: str, output: Path) -> bool:
    """Tells whether the split exists, complete and written from this annotation file.

    Raises:
        FileNotFoundError: The annotation file does not exist.
        ValueError: The split was written from another annotation file, or records are missing.
    """
    target = prepared.folder(output, split)
    if not annotation_file.is_file():
        raise FileNotFoundError(f"there is no annotation file {annotation_file}")
    if not target.exists():
        return False
    info = tfds.builder_from_directory(target).info
    if info.metadata["source"] != _source(annotation_file):
        raise ValueError(
            f"{target} was prepared from another annotation file than {annotation_file}"
        )
    num_images, num_records = len(info.metadata["image_ids"]), info.splits[split].num_examples
    missing = [path for path in info.splits[split].filepaths if not Path(path).is_file()]
    if num_images != num_records or missing:
        raise ValueError(
            f"{target} is damaged: {num_records} records of {num_images} images, "
            f"missing files {missing}"
        )
    return True


def _source(annotation_file: Path) -> dict[str, Any]:
    content = annotation_file.read_bytes()
    return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
