"""Colours for the objects of a picture: far apart, for most colour-blind people too, and most between neighbours."""

import functools

import numpy as np
from jaxtyping import Float, Int, Num, UInt8

_LEVELS = 8  # Of each channel in the grid that the palette is taken from.
_LIGHTNESS = (0.5, 0.9)  # OKLab's, from 0 to 1: darker or lighter colours get lost in photographs, and under a label.
_MIN_CHROMA = 0.12  # OKLab's: what is greyer gets lost too.
_FIRST = (36, 109, 255)  # A blue of that grid.
_MAX_WEIGHT = 8.0  # However far apart two objects are, their colours count this much less than those of neighbours.
_REPEATED = 1e-3  # Difference of a colour to itself: a repetition is bad, but better far away than near.

# Linear RGB as people without red or green cones see it (Machado, Oliveira and Fernandes 2009, severity 1); the few
# without blue ones are left out.
_PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))

# OKLab (Ottosson 2020): linear RGB to cone responses; their cube roots to lightness and two axes of hue.
_RGB_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_CONES_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def by_instance(boxes: Num[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n 3"]:
    """A colour for each object; none is repeated while the palette lasts, and neighbours differ most.

    One object after the other takes the colour whose smallest difference to those given before is largest. A
    difference counts for more the farther apart two boxes are, measured in the mean side of a box.
    """
    weights = np.minimum(1 + _gaps(boxes) / max(_mean_side(boxes), 1e-6), _MAX_WEIGHT)
    differences = np.maximum(_differences(), _REPEATED)
    smallest = np.full((len(boxes), len(differences)), np.inf)
    chosen = np.zeros(len(boxes), int)
    for i in range(len(boxes)):
        chosen[i] = smallest[i].argmax()
        rest = smallest[i + 1 :]
        np.minimum(rest, weights[i + 1 :, i, None] * differences[chosen[i]][None], out=rest)
    return palette()[chosen]


def by_class(labels: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """The same colour for all objects of a class, in every picture; the labels are 1, 2, ..."""
    return palette()[(labels - 1) % len(palette())]


@functools.cache
def palette() -> UInt8[np.ndarray, "c 3"]:
    """All colours in use, RGB: each next one as different as possible from those before it."""
    channel = np.linspace(0, 255, _LEVELS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(channel, channel, channel), axis=-1).reshape(-1, 3)
    lightness, green_red, blue_yellow = oklab(grid).T
    vivid = np.hypot(green_red, blue_yellow) > _MIN_CHROMA
    grid = grid[vivid & (lightness > _LIGHTNESS[0]) & (lightness < _LIGHTNESS[1])]
    apart = difference(grid, grid)
    order = [int((grid == _FIRST).all(1).argmax())]
    nearest = apart[order[0]]
    for _ in range(len(grid) - 1):
        nearest[order] = -1  # Never again.
        order.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart[order[-1]])
    return grid[order]


@functools.cache
def _differences() -> Float[np.ndarray, "c c"]:
    return difference(palette(), palette())


def difference(a: UInt8[np.ndarray, "n 3"], b: UInt8[np.ndarray, "m 3"]) -> Float[np.ndarray, "n m"]:
    """How well colours can be told apart by whoever sees the least of three: usual vision, no red, no green cones.

    The distance in OKLab; black and white are 1 apart, and what is below 0.02 looks the same.
    """
    apart = []
    for sight in (np.eye(3), np.array(_PROTANOPIA), np.array(_DEUTERANOPIA)):
        seen = oklab(a, sight)[:, None] - oklab(b, sight)[None]
        apart.append(np.sqrt((seen**2).sum(-1)))
    return np.min(apart, axis=0)


def oklab(colors: UInt8[np.ndarray, "n 3"], sight: Float[np.ndarray, "3 3"] | None = None) -> Float[np.ndarray, "n 3"]:
    """Lightness and two axes of hue, in which distances are what people see; ``sight`` changes linear RGB before."""
    encoded = colors / 255
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)  # sRGB.
    if sight is not None:
        linear = np.clip(linear @ sight.T, 0, 1)
    return np.cbrt(linear @ np.array(_RGB_TO_CONES).T) @ np.array(_CONES_TO_LAB).T


def _gaps(boxes: Num[np.ndarray, "n 4"]) -> Float[np.ndarray, "n n"]:
    """Pixels between each two boxes; 0 where they touch."""
    near, far = np.asarray(boxes, float)[:, None, :2], np.asarray(boxes, float)[None, :, 2:]
    beyond = np.maximum(near - far, 0)  # On each axis, how far the first one begins behind the end of the second.
    between = np.maximum(beyond, beyond.transpose(1, 0, 2))
    return np.hypot(between[..., 0], between[..., 1])


def _mean_side(boxes: Num[np.ndarray, "n 4"]) -> float:
    return float((boxes[:, 2:] - boxes[:, :2]).mean()) if len(boxes) else 0.0
