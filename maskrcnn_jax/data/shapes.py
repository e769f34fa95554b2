"""A synthetic set of discs, rings, rectangles, triangles and stars, drawn on the fly from a seed.

The class of an object shows in its outline alone: colour, size, rotation and shading say nothing about it. Objects
overlap, and what is hidden by another one is no part of a mask.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as rle_masks

from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import Example

Plane = Float[np.ndarray, "h w"]

_MAX_OBJECTS = 6
_EMPTY_FRACTION = 0.03  # Of the images.
_RADII = (0.075, 0.21)  # Smallest and largest, as fractions of the largest image side.
_MIN_VISIBLE = 0.65  # Objects of which others hide more are left out of the picture.
_NUM_COLOR_DRAWS = 6  # The colour least like those already there is taken.
_NOISE = 0.02  # Standard deviation of the noise on each pixel.


def _disc(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - 0.9


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - 0.7) - 0.25


def _rectangle(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x) - 0.9, np.abs(y) - 0.7)


def _triangle(x: Plane, y: Plane) -> Plane:
    return _star(x, y, num_points=3, outer=1.2, inner=0.6)


def _pentagram(x: Plane, y: Plane) -> Plane:
    return _star(x, y, num_points=5, outer=1.15, inner=0.5)


def _star(x: Plane, y: Plane, num_points: int, outer: float, inner: float) -> Plane:
    """Distance to the edges of a star; with its inner corners on straight lines it is a polygon."""
    sector = np.pi / num_points
    angle = np.abs(np.mod(np.arctan2(y, x), 2 * sector) - sector)  # 0 at an inner corner, `sector` at a point.
    radius = np.hypot(x, y)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    edge_x, edge_y = outer * np.cos(sector) - inner, outer * np.sin(sector)
    return ((x - inner) * edge_y - y * edge_x) / np.hypot(edge_x, edge_y)


# Signed distances to the outline, negative inside, for shapes of about unit radius round the origin.
_OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": _disc,
    "ring": _ring,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _pentagram,
}


class _Object(NamedTuple):
    label: int
    window: tuple[slice, slice]  # Rows and columns of the picture that it touches.
    cover: Float[np.ndarray, "y x"]  # Share of each pixel of the window that lies inside the outline.
    shade: Float[np.ndarray, "y x"]
    visible: Bool[np.ndarray, "h w"]


class ShapesDataset:
    """Random access to synthetic images; the image at an index depends on the seed and the index only.

    It is used like `CocoDataset`. Sets with different seeds have no image in common.

    Args:
        num_images: Length of the set.
        max_side: The sides of the images vary between 0.7 times this and this, in pixels.
        seed: Any number from 0.
    """

    categories = Categories(tuple(range(1, len(_OUTLINES) + 1)), tuple(_OUTLINES))

    def __init__(self, num_images: int, max_side: int, seed: int):
        if num_images < 1 or max_side < 32 or seed < 0:
            raise ValueError(
                "expected at least one image, a largest side of 32 pixels or more and a seed from 0, "
                f"got num_images={num_images}, max_side={max_side}, seed={seed}"
            )
        self._max_side, self._seed = max_side, seed
        self.sizes = np.array([self._size(self._random(index)) for index in range(num_images)])
        self.image_ids = np.arange(1, num_images + 1)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Draws one image. Raises IndexError beyond the end, so that a set can be iterated over."""
        index = range(len(self))[index]
        random = self._random(index)
        size = self._size(random)
        objects = _arrange(random, size, self._max_side)
        image = _paint(random, size, objects)
        masks = [_encode(found.visible) for found in objects]
        boxes = rle_masks.toBbox(masks) if masks else np.zeros((0, 4))
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([found.label for found in objects], np.int32)
        return Example(image, index + 1, boxes.astype(np.float32), classes, masks)

    def annotations(self) -> dict[str, Any]:
        """The ground truth of all images as the content of a COCO annotation file."""
        images, annotations = [], []
        for example in self:
            height, width, _ = example.image.shape
            images.append({"id": example.image_id, "file_name": "", "height": height, "width": width})
            for box, label, mask in zip(example.boxes, example.classes, example.masks, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # pycocotools takes the id 0 for "not matched".
                        "image_id": example.image_id,
                        "category_id": self.categories.category_id(int(label)),
                        "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                        "area": int(rle_masks.area(mask)),
                        "segmentation": mask,
                        "iscrowd": 0,
                    }
                )
        return {"images": images, "annotations": annotations, "categories": self.categories.to_json()}

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, index))

    def _size(self, random: np.random.Generator) -> tuple[int, int]:
        """Height and width: the first draw of each image, so that sizes are known without drawing it."""
        height, width = random.integers(-(-7 * self._max_side // 10), self._max_side + 1, size=2)
        return int(height), int(width)


def _arrange(random: np.random.Generator, size: tuple[int, int], max_side: int) -> list[_Object]:
    """Places objects from front to back: each is hidden by those before it."""
    hidden = np.zeros(size, bool)
    objects = []
    num_objects = 0 if random.random() < _EMPTY_FRACTION else random.integers(1, _MAX_OBJECTS + 1)
    for _ in range(num_objects):
        label = int(random.integers(1, len(_OUTLINES) + 1))
        radius = max_side * math.exp(random.uniform(*np.log(_RADII)))
        center = random.uniform(0.9 * radius, np.array(size) - 0.9 * radius)
        window, cover, shade = _draw(list(_OUTLINES.values())[label - 1], size, center, radius, random)
        inside = np.zeros(size, bool)
        inside[window] = cover > 0.5
        visible = inside & ~hidden
        if visible.sum() >= _MIN_VISIBLE * inside.sum():
            objects.append(_Object(label, window, cover, shade, visible))
            hidden |= inside
    return objects


def _draw(
    outline: Callable[[Plane, Plane], Plane],
    size: tuple[int, int],
    center: Float[np.ndarray, " 2"],
    radius: float,
    random: np.random.Generator,
) -> tuple[tuple[slice, slice], Plane, Plane]:
    """Returns the window of the picture that the object touches, and its cover and shade there."""
    low = np.maximum(np.floor(center - 1.25 * radius), 0).astype(int)
    high = np.minimum(np.ceil(center + 1.25 * radius), size).astype(int)
    y, x = (
        ((np.arange(a, b) + 0.5 - c) / radius).astype(np.float32) for a, b, c in zip(low, high, center, strict=True)
    )
    angle, light = random.uniform(0, 2 * np.pi, size=2).tolist()
    cover = np.clip(0.5 - radius * outline(*_rotate(x, y[:, None], angle)), 0, 1)  # A pixel wide ramp: smooth edges.
    shade = random.uniform(0, 0.15) * _rotate(x, y[:, None], light)[0]
    return (slice(low[0], high[0]), slice(low[1], high[1])), cover, shade


def _rotate(x: Float[np.ndarray, " w"], y: Float[np.ndarray, "h 1"], angle: float) -> tuple[Plane, Plane]:
    """Coordinates of a grid along axes turned by the angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)  # Python numbers keep float32 what it is.
    return cos * x + sin * y, cos * y - sin * x


def _paint(random: np.random.Generator, size: tuple[int, int], objects: list[_Object]) -> UInt8[np.ndarray, "h w 3"]:
    """Paints the objects over a textured background, the hindmost first."""
    image, colors = _background(random, size)
    for _ in objects:
        colors.append(_distinct_color(random, colors))
    for found, color in zip(reversed(objects), reversed(colors), strict=False):
        part = image[found.window]
        part += found.cover[:, :, None] * (color.astype(np.float32) + found.shade[:, :, None] - part)
    image += np.float32(_NOISE) * random.standard_normal(image.shape, np.float32)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _distinct_color(random: np.random.Generator, others: list[np.ndarray]) -> Float[np.ndarray, " 3"]:
    draws = random.uniform(0.05, 0.95, size=(_NUM_COLOR_DRAWS, 3))
    distances = [np.linalg.norm(draws - other, axis=1) for other in others]
    return draws[np.argmax(np.min(distances, axis=0))]


def _background(
    random: np.random.Generator, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "h w 3"], list[Float[np.ndarray, " 3"]]]:
    """A blend of two similar colours, by a texture that is a slope, stripes or a cloth; returns the colours too."""
    base = random.uniform(0.2, 0.8, size=3)
    base += 0.5 * (base.mean() - base)  # Duller than the objects.
    other = np.clip(base + random.uniform(-0.18, 0.18, size=3), 0, 1)
    y, x = (
        (np.arange(n, dtype=np.float32) - n / 2) / max(size) for n in size
    )  # The whole picture stays float32, for speed.
    angle, phase = random.uniform(0, 2 * np.pi, size=2).tolist()
    along, across = _rotate(x, y[:, None], angle)
    frequency, kind = random.uniform(15, 90), random.integers(3)
    if kind == 0:
        blend = 0.5 + along
    elif kind == 1:
        blend = 0.5 + 0.5 * np.sin(frequency * along + phase)
    else:
        blend = 0.5 + 0.5 * np.sin(frequency * along + phase) * np.sin(0.8 * frequency * across)
    change = (other - base).astype(np.float32)
    return base.astype(np.float32) + np.clip(blend, 0, 1)[:, :, None] * change, [base, other]


def _encode(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    encoded = rle_masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}
