"""The map between a model's labels and the categories of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TORCHVISION_COCO_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, N/A,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, N/A,
    backpack, umbrella, N/A, N/A, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
    baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, N/A, wine glass, cup, fork, knife,
    spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
    potted plant, bed, N/A, dining table, N/A, N/A, toilet, N/A, tv, laptop, mouse, remote, keyboard, cell phone,
    microwave, oven, toaster, sink, refrigerator, N/A, book, clock, vase, scissors, teddy bear, hair drier,
    toothbrush
"""


@dataclass(frozen=True)
class Categories:
    """What the labels 1, 2, ... of a model stand for: label ``i + 1`` is the category ``ids[i]``, called ``names[i]``.

    Label 0 is background. The map travels with a model's weights, since another data set may number or order the same
    categories differently.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ValueError(
                f"expected one name for each category id, got {len(self.ids)} ids, {len(self.names)} names"
            )
        if len(set(self.ids)) != len(self.ids):
            repeated = sorted({i for i in self.ids if self.ids.count(i) > 1})
            raise ValueError(f"category ids have to differ, got {repeated} more than once")

    def __len__(self) -> int:
        """Number of categories, without background."""
        return len(self.ids)

    def label(self, category_id: int) -> int:
        """The label of a category. Raises ValueError if there is none."""
        if category_id not in self.ids:
            raise ValueError(f"unknown category id {category_id}; the ids are {list(self.ids)}")
        return self.ids.index(category_id) + 1

    def category_id(self, label: int) -> int:
        """The category a label stands for. Raises ValueError unless the label is 1 to ``len(self)``."""
        return self.ids[self._index(label)]

    def name(self, label: int) -> str:
        """The name of the category a label stands for. Raises ValueError unless the label is 1 to ``len(self)``."""
        return self.names[self._index(label)]

    def _index(self, label: int) -> int:
        if not 1 <= label <= len(self.ids):
            raise ValueError(f"expected a label from 1 to {len(self.ids)}, got {label}")
        return int(label) - 1

    def to_json(self) -> list[dict[str, Any]]:
        """The categories in the order of their labels, as COCO files list them."""
        return [{"id": i, "name": name} for i, name in zip(self.ids, self.names, strict=True)]

    @classmethod
    def numbered(cls, count: int) -> "Categories":
        """What is left to say of labels of which nobody knows the meaning: ids 1, 2, ... named "class 1", "class 2"."""
        ids = tuple(range(1, count + 1))
        return cls(ids, tuple(f"class {i}" for i in ids))

    @classmethod
    def torchvision_coco(cls) -> "Categories":
        """The 90 labels of torchvision's COCO weights: COCO's own ids, with "N/A" for the ten that it does not use."""
        names = tuple(name.strip() for name in TORCHVISION_COCO_NAMES.split(","))
        return cls(tuple(range(1, len(names) + 1)), names)

    @classmethod
    def from_json(cls, categories: Sequence[dict[str, Any]]) -> "Categories":
        """Reads what `to_json` writes, labels in the order given. Raises KeyError where an id or a name is missing."""
        return cls(tuple(c["id"] for c in categories), tuple(c["name"] for c in categories))
