"""Makes the inputs of all contenders, images and objects, from a seed; needs no data set."""

import numpy as np

from maskrcnn_jax import resizing
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.shapes import ShapesDataset

Size = tuple[int, int]  # Height and width.

ONE: tuple[Size, ...] = ((480, 640),)
# Common sizes of cameras and of the web.
FOUR: tuple[Size, ...] = (
    (480, 640),
    (640, 427),
    (375, 500),
    (720, 1280),
)
TRAINING: Size = (800, 1088)
NUM_OBJECTS = 7  # The average of COCO's images, rounded.


def images(sizes: tuple[Size, ...]) -> list[np.ndarray]:
    """Makes synthetic images of these sizes, uint8 [h, w, 3]."""
    drawn = ShapesDataset(len(sizes), max_side=640, seed=0)
    return [resizing.resize_rounded(drawn[i].image, size) for i, size in enumerate(sizes)]


def examples(count: int, num_objects: int = NUM_OBJECTS, size: Size = TRAINING) -> list[Example]:
    """Makes images with elliptic objects of random sizes, annotated by polygons."""
    return [_example(i, image, num_objects) for i, image in enumerate(images((size,) * count))]


def boxes(count: int, size: Size, seed: int = 0) -> np.ndarray:
    """Draws random boxes inside an image, float32 [count, 4].

    The sides are log-uniform from 16 to 512 pixels.
    """
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(16), np.log(512), (count, 1)))
    shape = np.exp(random.uniform(np.log(0.5), np.log(2), (count, 1)) / 2)
    extents = np.concatenate([sides * shape, sides / shape], axis=1).clip(
        max=np.array(size[::-1]) - 1
    )
    corners = random.uniform(0, np.array(size[::-1]) - extents)
    return np.concatenate([corners, corners + extents], axis=1).astype(np.float32)


def _example(index: int, image: np.ndarray, num_objects: int) -> Example:
    found = boxes(num_objects, image.shape[:2], seed=index)
    angles = np.linspace(0, 2 * np.pi, 33)[:-1]
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centres, radii = (found[:, 2:] + found[:, :2]) / 2, (found[:, 2:] - found[:, :2]) / 2
    masks = [[(c + r * circle).ravel().tolist()] for c, r in zip(centres, radii, strict=True)]
    classes = np.arange(num_objects, dtype=np.int32) % 90 + 1
    return Example(image, index + 1, found, classes, masks)
