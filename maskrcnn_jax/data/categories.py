"""The map between a model's labels and the categories of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TORCHVISION_COCO_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, N/A, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, N/A, backpack, umbrella, N/A, N/A, handbag, tie, suitcase, frisbee, skis,
    snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
    tennis racket, bottle, N/A, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
    orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, N/A,
    dining table, N/A, N/A, toilet, N/A, tv, laptop, mouse, remote, keyboard, cell phone, microwave,
    oven, toaster, sink, refrigerator, N/A, book, clock, vase, scissors, teddy bear, hair drier,
    toothbrush
"""


@dataclass(frozen=True)
class Categories:
    """The categories that the labels of a model stand for.

    Label ``i + 1`` is the category with the id ``ids[i]`` and the name ``names[i]``; label 0 is
    background. The map is stored with a model's weights, because another data set may number or
    order the same categories differently.

    Raises:
        ValueError: The numbers of ids and names differ, or an id is repeated.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ValueError(
                f"expected one name for each category id, got {len(self.ids)} ids, "
                f"{len(self.names)} names"
            )
        if len(set(self.ids)) != len(self.ids):
            repeated = sorted({i for i in self.ids if self.ids.count(i) > 1})
            raise ValueError(f"category ids have to differ, got {repeated} more than once")

    def __len__(self) -> int:
        """Returns the number of categories, without background."""
        return len(self.ids)

    def label(self, category_id: int) -> int:
        """Returns the label of a category id. Raises ValueError if the id is unknown."""
        if category_id not in self.ids:
            raise ValueError(f"unknown category id {category_id}; the ids are {list(self.ids)}")
        return self.ids.index(category_id) + 1

    def category_id(self, label: int) -> int:
        """Returns the category id of a label.

        Raises ValueError unless the label is from 1 to ``len(self)``.
        """
        return self.ids[self._index(label)]

    def name(self, label: int) -> str:
        """Returns the category name of a label. Errors as in `category_id`."""
        return self.names[self._index(label)]

    def _index(self, label: int) -> int:
        if not 1 <= label <= len(self.ids):
            raise ValueError(f"expected a label from 1 to {len(self.ids)}, got {label}")
        return int(label) - 1

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the categories in the order of their labels, as COCO files list them."""
        return [{"id": i, "name": name} for i, name in zip(self.ids, self.names, strict=True)]

    @classmethod
    def numbered(cls, count: int) -> "Categories":
        """Makes categories for labels of unknown meaning: ids 1, 2, ..., named "class 1", ..."""
        ids = tuple(range(1, count + 1))
        return cls(ids, tuple(f"class {i}" for i in ids))

    @classmethod
    def torchvision_coco(cls) -> "Categories":
        """Returns the 90 categories of torchvision's COCO weights.

        The ids are COCO's. The ten ids that COCO does not use have the name "N/A".
        """
        names = tuple(name.strip() for name in TORCHVISION_COCO_NAMES.split(","))
        return cls(tuple(range(1, len(names) + 1)), names)

    @classmethod
    def coco(cls) -> "Categories":
        """Returns COCO's 80 categories by ascending id: the labels of most other libraries."""
        both = cls.torchvision_coco()
        kept = [pair for pair in zip(both.ids, both.names, strict=True) if pair[1] != "N/A"]
        return cls(*zip(*kept, strict=True))

    @classmethod
    def from_json(cls, categories: Sequence[dict[str, Any]]) -> "Categories":
        """Reads the output of `to_json`; the labels follow its order.

        Raises KeyError if an entry has no id or no name.
        """
        return cls(tuple(c["id"] for c in categories), tuple(c["name"] for c in categories))

    @classmethod
    def checked(cls, categories: Any) -> "Categories":
        """Reads the output of `to_json` from a file of others.

        Raises ValueError, KeyError or TypeError if it is anything else.
        """
        found = cls.from_json(categories)
        are_numbers = all(type(i) is int for i in found.ids)
        if not are_numbers or not all(isinstance(name, str) for name in found.names):
            raise ValueError("expected numbers as ids and text as names")
        return found
