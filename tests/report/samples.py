"""A small data set with detections whose mistakes are counted by hand, and random data sets."""

from types import SimpleNamespace

import numpy as np

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories

# Names that break a page which parses them as HTML or as the end of a script.
NAMES = {3: "cat & <b>kitten</b>", 7: 'dog "Rex"', 9: "</script><script>window.broken = 1</script>"}
FILES = {
    1: "a<img src=x onerror='window.broken = 2'>.jpg",
    2: "crowd's.jpg",
    5: "",
    6: 'b"&amp;.jpg',
}
SIZE = (60, 80)  # Height and width.


class Images:
    """Stands in for a data set of grey images."""

    categories = Categories(tuple(NAMES), tuple(NAMES.values()))
    image_ids = np.array(list(FILES))
    sizes = np.array([SIZE] * len(FILES))
    labels = [np.zeros(0, int)] * len(FILES)

    def __len__(self):
        return len(FILES)

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        return SimpleNamespace(image=pixels)


def entry(image_id, category_id, box, size=SIZE, outline=None, **fields):
    """An object or, with a score, a result. The mask fills the box (corners) or the outline."""
    x0, y0, x1, y1 = box
    mask = [outline or [x0, y0, x1, y0, x1, y1, x0, y1]]
    place = {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": rle.encode(mask, *size) if "score" in fields else mask,
    }
    return {"image_id": image_id, "category_id": category_id, **place, **fields}


def dataset(objects, images, size, names):
    """Annotations in COCO's format."""
    for i, found in enumerate(objects):
        found |= {
            "id": i + 1,
            "area": found["bbox"][2] * found["bbox"][3],
            "iscrowd": found.get("iscrowd", 0),
        }
    return {
        "images": [
            {"id": i, "file_name": name, "height": size[0], "width": size[1]}
            for i, name in images.items()
        ],
        "categories": [{"id": i, "name": name} for i, name in names.items()],
        "annotations": objects,
    }


def by_hand():
    """Annotations and results. At score 0.5 images have 1, 1, 0, 0 missed and 1, 0, 3, 0 false."""
    objects = [
        entry(1, 3, (5, 5, 25, 25)),
        entry(1, 3, (40, 30, 70, 55)),
        entry(2, 7, (0, 0, 80, 30), iscrowd=1),
        entry(2, 7, (10, 40, 30, 55)),
        entry(6, 7, (10, 10, 30, 30)),
        entry(6, 7, (50, 10, 70, 30)),
    ]
    results = [
        entry(1, 3, (5, 5, 25, 25), score=0.9),
        entry(1, 3, (5, 5, 25, 24), score=0.8),  # A duplicate.
        entry(2, 7, (10, 5, 30, 20), score=0.95),  # Inside the crowd.
        entry(2, 7, (10, 40, 30, 55), score=0.3),
        entry(5, 3, (0, 0, 20, 20), score=0.7),
        entry(5, 3, (20, 0, 40, 20), score=0.6),
        entry(5, 3, (40, 0, 60, 20), score=0.55),
        entry(6, 7, (10, 10, 30, 30), score=0.5),
        entry(6, 7, (50, 10, 70, 30), score=1.0),
        entry(6, 7, (0, 40, 20, 60), score=0.499999),  # False, but just below the threshold.
        entry(6, 11, (0, 40, 20, 60), score=0.99),  # The data set has no such category.
    ]
    return dataset(objects, FILES, SIZE, NAMES), results


def random(seed):
    """Random annotations and results with crowds, duplicates and near misses."""
    rng = np.random.default_rng(seed)

    def box():
        x, y = rng.integers(0, 60, 2).tolist()
        return x, y, x + int(rng.integers(15, 40)), y + int(rng.integers(15, 40))

    objects, results = [], []
    for image_id in range(1, 6):
        for _ in range(rng.integers(0, 7)):
            kind, place = int(rng.choice([3, 7])), box()
            objects.append(entry(image_id, kind, place, iscrowd=int(rng.random() < 0.2)))
            for _ in range(rng.integers(0, 3)):
                moved = (np.array(place) + rng.integers(-5, 6, 4)).clip(0, 99).tolist()
                results.append(
                    entry(image_id, kind, moved, (100, 100), score=round(rng.random(), 6))
                )
        results += [
            entry(image_id, 3, box(), (100, 100), score=round(rng.random(), 6)) for _ in range(2)
        ]
    return dataset(objects, {i: f"{i}.jpg" for i in range(1, 6)}, (100, 100), NAMES), results
