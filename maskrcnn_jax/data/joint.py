"""Several data sets as one, with one list of categories and a weight for each set."""

import copy
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Int64

from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import AnnotatedDataset, Example


def join(sets: Sequence[tuple[str, Categories]]) -> Categories:
    """Joins the categories of several sets by their names.

    The labels follow the order in which the names appear. An id is that of the first set with the
    name; if it is taken by another name, the next free one.

    Args:
        sets: The name and the categories of each set.

    Raises:
        ValueError: Two names differ in upper and lower case only, or a set has a name twice.
    """
    ids: dict[str, int] = {}
    first: dict[str, tuple[str, str]] = {}
    for where, categories in sets:
        for name in categories.names:
            if categories.names.count(name) > 1:
                raise ValueError(f"data.train: {where} has two categories {name!r}")
            other, known = first.setdefault(name.strip().casefold(), (where, name))
            if known != name:
                raise ValueError(
                    f"data.train: {where} has the category {name!r}, and {other} has {known!r}: "
                    "give both the same name"
                )
        for category_id, name in zip(categories.ids, categories.names, strict=True):
            if name not in ids:
                is_free = category_id not in ids.values()
                ids[name] = category_id if is_free else max(ids.values()) + 1
    return Categories(tuple(ids.values()), tuple(ids))


class JointDataset:
    """Random access to the images of several sets, one set after the other.

    Images are numbered 1, 2, ..., since the ids of two sets may be equal.

    Args:
        sets: The sets, which all have the same list of labels, and their names for messages.
        weights: The weight of each set: its share of the images of training, over their sum.
        categories: The category of every label, with the ids of `join`.
    """

    def __init__(
        self,
        sets: Sequence[tuple[str, AnnotatedDataset]],
        weights: Sequence[float | int],
        categories: Categories,
    ):
        self.categories = categories
        self._names = [name for name, _ in sets]
        self._sets = [dataset for _, dataset in sets]
        self.weights: Float[np.ndarray, " s"] = np.array(weights, np.float64)
        counts = [len(dataset) for dataset in self._sets]
        self.set_of_image: Int64[np.ndarray, " n"] = np.repeat(np.arange(len(sets)), counts)
        self._own = np.concatenate([np.arange(count) for count in counts])
        self.image_ids: Int64[np.ndarray, " n"] = np.arange(1, len(self._own) + 1)

    @property
    def num_channels(self) -> int:
        """The number of channels of all images."""
        return self._sets[0].num_channels

    @property
    def image_dtype(self) -> str:
        """The type of the pixels of all images."""
        return self._sets[0].image_dtype

    def __len__(self) -> int:
        return len(self._own)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Reads one image. Raises OSError with the name of the set if it cannot be read."""
        example = self._ask(index, "__getitem__")
        return example._replace(image_id=int(self.image_ids[index]))

    def check(self, index: int | np.integer) -> None:
        """Looks at the header of an image, if it has one. Raises the errors of reading it."""
        if hasattr(self._sets[self.set_of_image[index]], "check"):
            self._ask(index, "check")

    def _ask(self, index: int | np.integer, method: str) -> Any:
        position = self.set_of_image[index]
        try:
            return getattr(self._sets[position], method)(int(self._own[index]))
        except (OSError, ValueError) as error:
            raise OSError(f"{self._names[position]}: {error}") from error

    def without(self, image_ids: Iterable[int]) -> "JointDataset":
        """The data set without some images; the others keep their ids."""
        kept = ~np.isin(self.image_ids, list(image_ids))
        rest = copy.copy(self)
        rest.__dict__.pop("labels", None)
        for name in ("set_of_image", "_own", "image_ids"):
            setattr(rest, name, getattr(self, name)[kept])
        return rest

    @property
    def sizes(self) -> Int64[np.ndarray, "n 2"]:
        """Height and width of every image, in pixels."""
        sizes = [np.asarray(x.sizes)[self._left(i)] for i, x in enumerate(self._sets)]
        return np.concatenate(sizes)

    @functools.cached_property
    def labels(self) -> list[Int32[np.ndarray, " _"]]:
        """The labels of the objects of every image, from 1."""
        found = []
        for position, dataset in enumerate(self._sets):
            labels = dataset.labels
            found += [labels[i] for i in self._left(position)]
        return found

    def _left(self, position: int) -> Int64[np.ndarray, " _"]:
        """The indices in a set of its images that are left."""
        return self._own[self.set_of_image == position]

    def annotations(self) -> dict[str, Any]:
        """Returns the annotations of all sets in COCO's format, with the ids of this data set.

        Images that the sets leave out of training have ids beyond those of the others.
        """
        images, annotations = [], []
        beyond = int(self.image_ids.max(initial=0))
        for position, dataset in enumerate(self._sets):
            content = dataset.annotations()
            own = np.asarray(dataset.image_ids)[self._left(position)].tolist()
            kept = self.image_ids[self.set_of_image == position]
            ids = dict(zip(own, kept.tolist(), strict=True))
            for entry in content["images"]:
                if entry["id"] not in ids:
                    beyond += 1
                    ids[entry["id"]] = beyond
                images.append(entry | {"id": ids[entry["id"]]})
            names = {entry["id"]: entry["name"] for entry in content["categories"]}
            pairs = zip(self.categories.names, self.categories.ids, strict=True)
            category_ids = {name.strip().casefold(): i for name, i in pairs}
            for entry in content["annotations"]:
                category_id = category_ids[names[entry["category_id"]].strip().casefold()]
                changed = {"id": len(annotations) + 1, "image_id": ids[entry["image_id"]]}
                annotations.append(entry | changed | {"category_id": category_id})
        categories = self.categories.to_json()
        return {"images": images, "annotations": annotations, "categories": categories}
