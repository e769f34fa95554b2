"""A synthetic data set of discs, rings, rectangles, triangles and stars, drawn from a seed.

Only the outline of an object depends on its class; colour, size, rotation and shading do not.
Objects overlap, and a mask holds only the visible pixels of its object.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from pycocotools import mask as codec

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Example

Plane = Float[np.ndarray, "h w"]

_MAX_OBJECTS = 6
_EMPTY_FRACTION = 0.03  # Fraction of images without objects.
_RADII = (0.075, 0.21)  # Smallest and largest radius, as fractions of ``max_side``.
_MIN_VISIBLE = 0.65  # An object is skipped if a smaller fraction of its area would be visible.
_NUM_COLOR_DRAWS = 6  # Colours drawn for each object; the most distinct one is used.
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
    """Signed distance to the lines through the edges of a star.

    The shape is a regular polygon if the inner corners lie on lines between the points.
    """
    sector = np.pi / num_points
    # The angle is 0 at an inner corner and `sector` at a point of the star.
    angle = np.abs(np.mod(np.arctan2(y, x), 2 * sector) - sector)
    radius = np.hypot(x, y)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    edge_x, edge_y = outer * np.cos(sector) - inner, outer * np.sin(sector)
    return ((x - inner) * edge_y - y * edge_x) / np.hypot(edge_x, edge_y)


# Signed distances to the outline, negative inside, of shapes of about unit radius at the origin.
_OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": _disc,
    "ring": _ring,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _pentagram,
}


class _Object(NamedTuple):
    label: int
    window: tuple[slice, slice]  # Rows and columns of the image that the object touches.
    cover: Float[np.ndarray, "y x"]  # Fraction of each window pixel inside the outline.
    shade: Float[np.ndarray, "y x"]  # Added to the colour.
    visible: Bool[np.ndarray, "h w"]


class ShapesDataset:
    """Random access to synthetic images, with the interface of `CocoDataset`.

    The image at an index depends on the seed and the index only. Different seeds give different
    images.

    Args:
        num_images: Length of the data set.
        max_side: Largest side of an image, in pixels. Sides vary from 0.7 times this number.
        seed: A non-negative number.

    Raises:
        ValueError: ``num_images`` is below 1, ``max_side`` below 32, or the seed negative.
    """

    categories = Categories(tuple(range(1, len(_OUTLINES) + 1)), tuple(_OUTLINES))

    def __init__(self, num_images: int, max_side: int, seed: int):
        if num_images < 1 or max_side < 32 or seed < 0:
            raise ValueError(
                "expected at least one image, a largest side of 32 pixels or more and a seed "
                f"from 0, got num_images={num_images}, max_side={max_side}, seed={seed}"
            )
        self._max_side, self._seed = max_side, seed
        self.sizes = np.array([self._size(self._random(index)) for index in range(num_images)])
        self.image_ids = np.arange(1, num_images + 1)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Draws one image. Raises IndexError beyond the end, which makes the data set iterable."""
        index = range(len(self))[index]
        random, size, objects = self._arrange(index)
        image = _paint(random, size, objects)
        masks = [rle.encode_bitmap(found.visible) for found in objects]
        boxes = codec.toBbox(masks) if masks else np.zeros((0, 4))
        boxes[:, 2:] += boxes[:, :2]
        return Example(image, index + 1, boxes.astype(np.float32), _labels(objects), masks)

    @functools.cached_property
    def labels(self) -> list[Int32[np.ndarray, " _"]]:
        """The labels of the objects of every image, computed in half the time of drawing them."""
        return [_labels(self._arrange(index)[2]) for index in range(len(self))]

    def annotations(self) -> dict[str, Any]:
        """Returns the ground truth of all images as the content of a COCO annotation file."""
        images, annotations = [], []
        for example in self:
            height, width, _ = example.image.shape
            images.append(
                {"id": example.image_id, "file_name": "", "height": height, "width": width}
            )
            for box, label, mask in zip(example.boxes, example.classes, example.masks, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # In pycocotools the id 0 means "not matched".
                        "image_id": example.image_id,
                        "category_id": self.categories.category_id(int(label)),
                        "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                        "area": int(codec.area(mask)),
                        "segmentation": mask,
                        "iscrowd": 0,
                    }
                )
        return {
            "images": images,
            "annotations": annotations,
            "categories": self.categories.to_json(),
        }

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, index))

    def _arrange(self, index: int) -> tuple[np.random.Generator, tuple[int, int], list[_Object]]:
        """Returns the generator of an image after the objects are drawn, the size, the objects."""
        random = self._random(index)
        size = self._size(random)
        return random, size, _arrange(random, size, self._max_side)

    def _size(self, random: np.random.Generator) -> tuple[int, int]:
        """Draws height and width. They come first, so that sizes are known without the objects."""
        height, width = random.integers(-(-7 * self._max_side // 10), self._max_side + 1, size=2)
        return int(height), int(width)


def _arrange(random: np.random.Generator, size: tuple[int, int], max_side: int) -> list[_Object]:
    """Places objects from front to back: earlier objects hide later ones."""
    hidden = np.zeros(size, bool)
    objects = []
    num_objects = 0 if random.random() < _EMPTY_FRACTION else random.integers(1, _MAX_OBJECTS + 1)
    for _ in range(num_objects):
        label = int(random.integers(1, len(_OUTLINES) + 1))
        radius = max_side * math.exp(random.uniform(*np.log(_RADII)))
        center = random.uniform(0.9 * radius, np.array(size) - 0.9 * radius)
        outline = list(_OUTLINES.values())[label - 1]
        window, cover, shade = _draw(outline, size, center, radius, random)
        inside = np.zeros(size, bool)
        inside[window] = cover > 0.5
        visible = inside & ~hidden
        if visible.sum() >= _MIN_VISIBLE * inside.sum():
            objects.append(_Object(label, window, cover, shade, visible))
            hidden |= inside
    return objects


def _labels(objects: list[_Object]) -> Int32[np.ndarray, " _"]:
    return np.array([found.label for found in objects], np.int32)


def _draw(
    outline: Callable[[Plane, Plane], Plane],
    size: tuple[int, int],
    center: Float[np.ndarray, " 2"],
    radius: float,
    random: np.random.Generator,
) -> tuple[tuple[slice, slice], Plane, Plane]:
    """Returns the window of the image that an object touches, and its cover and shade there.

    Args:
        outline: Signed distance to the outline, in units of the radius.
        size: Height and width of the image.
        center: (y, x) in pixels.
        radius: In pixels.
        random: Draws the rotation and the shading.
    """
    low = np.maximum(np.floor(center - 1.25 * radius), 0).astype(int)
    high = np.minimum(np.ceil(center + 1.25 * radius), size).astype(int)
    y, x = (
        ((np.arange(a, b) + 0.5 - c) / radius).astype(np.float32)
        for a, b, c in zip(low, high, center, strict=True)
    )
    angle, light = random.uniform(0, 2 * np.pi, size=2).tolist()
    distance = radius * outline(*_rotate(x, y[:, None], angle))
    cover = np.clip(0.5 - distance, 0, 1)  # A ramp one pixel wide gives smooth edges.
    shade = random.uniform(0, 0.15) * _rotate(x, y[:, None], light)[0]
    return (slice(low[0], high[0]), slice(low[1], high[1])), cover, shade


def _rotate(
    x: Float[np.ndarray, " w"], y: Float[np.ndarray, "h 1"], angle: float
) -> tuple[Plane, Plane]:
    """Returns the coordinates of a grid along axes rotated by an angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)  # Python floats do not promote float32 arrays.
    return cos * x + sin * y, cos * y - sin * x


def _paint(
    random: np.random.Generator, size: tuple[int, int], objects: list[_Object]
) -> UInt8[np.ndarray, "h w 3"]:
    """Paints the objects over a textured background, from back to front."""
    image, colors = _background(random, size)
    for _ in objects:
        colors.append(_distinct_color(random, colors))
    for found, color in zip(reversed(objects), reversed(colors), strict=False):
        part = image[found.window]
        shaded = color.astype(np.float32) + found.shade[:, :, None]
        part += found.cover[:, :, None] * (shaded - part)
    image += np.float32(_NOISE) * random.standard_normal(image.shape, np.float32)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _distinct_color(
    random: np.random.Generator, others: list[np.ndarray]
) -> Float[np.ndarray, " 3"]:
    draws = random.uniform(0.05, 0.95, size=(_NUM_COLOR_DRAWS, 3))
    distances = [np.linalg.norm(draws - other, axis=1) for other in others]
    return draws[np.argmax(np.min(distances, axis=0))]


def _background(
    random: np.random.Generator, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "h w 3"], list[Float[np.ndarray, " 3"]]]:
    """Blends two similar colours by a texture: a gradient, stripes or a weave.

    Returns:
        The image in [0, 1], float32, and the two colours.
    """
    base = random.uniform(0.2, 0.8, size=3)
    base += 0.5 * (base.mean() - base)  # The background is less saturated than the objects.
    other = np.clip(base + random.uniform(-0.18, 0.18, size=3), 0, 1)
    # The whole image stays float32, for speed.
    y, x = ((np.arange(n, dtype=np.float32) - n / 2) / max(size) for n in size)
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
