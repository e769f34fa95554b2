"""The interface of a data set: training and evaluation accept any object with these members."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int32

from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.rle import Mask
from maskrcnn_jax.images import Pixels


class Example(NamedTuple):
    """One image with its objects. Do not modify the arrays: the data set may keep them."""

    image: Pixels
    image_id: int
    boxes: Float32[np.ndarray, "n 4"]  # x0 y0 x1 y1 in pixels of this image.
    classes: Int32[np.ndarray, " n"]  # Contiguous labels, from 1.
    # For each box: polygons, a compressed run-length encoding, or None if there is no mask.
    masks: list[Mask | None]


@runtime_checkable
class Dataset(Protocol):
    """Random access to images and their objects.

    Only ``__getitem__`` reads an image. The other members are cheap.
    """

    @property
    def categories(self) -> Categories:
        """The category of every label."""
        ...

    @property
    def sizes(self) -> Int[np.ndarray, "n 2"]:
        """Height and width of every image, in pixels."""
        ...

    @property
    def image_ids(self) -> Int[np.ndarray, " n"]:
        """The id of every image: distinct numbers that fit into int32."""
        ...

    @property
    def labels(self) -> Sequence[Int[np.ndarray, " _"]]:
        """The labels of the objects of every image, equal to `Example.classes`."""
        ...

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def __getitem__(self, index: int | np.integer, /) -> Example:
        """Reads one image. Raises OSError if the image cannot be read."""
        ...


@runtime_checkable
class AnnotatedDataset(Dataset, Protocol):
    """A data set with annotations in COCO's format, which evaluation needs."""

    def annotations(self) -> dict[str, Any]:
        """Returns the content of an annotation file: images, annotations, crowds, categories."""
        ...
