"""Chooses distinct colours for the objects of an image, most distinct between neighbours.

Most colour-blind people can tell the colours apart, too.
"""

import functools

import numpy as np
from jaxtyping import Float, Int, Num, UInt8

_LEVELS = 8  # Values of each channel in the RGB grid that the palette is chosen from.
# Range of lightness in OKLab: darker or lighter colours are hard to see in photographs, and letters
# on them are hard to read.
_LIGHTNESS = (0.5, 0.9)
_MIN_CHROMA = 0.12  # Chroma in OKLab: greyer colours are hard to see in photographs.
_FIRST = (36, 109, 255)  # The first colour of the palette: a blue of the grid.
_MAX_WEIGHT = 8.0  # Largest weight of the colour difference of distant objects; neighbours have 1.
_REPEATED = (
    1e-3  # Difference of a colour to itself, positive to prefer far repetitions to near ones.
)

# Matrices that simulate the vision of people without red or green cones, in linear RGB (Machado,
# Oliveira and Fernandes 2009, severity 1). Missing blue cones are rare and not considered.
_PROTANOPIA = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)
_DEUTERANOPIA = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)

# OKLab (Ottosson 2020): the first matrix maps linear RGB to cone responses, the second one maps the
# cube roots of these to lightness and two colour axes.
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
    """Chooses a colour for each object. A colour repeats only after the whole palette is used.

    The objects choose in order. Each takes the colour whose smallest weighted difference to the
    colours chosen before is largest. The weight grows with the distance of the two boxes, measured
    in mean sides of a box, so colours of neighbours must differ most.

    Args:
        boxes: x0, y0, x1, y1 in pixels.

    Returns:
        RGB colours.
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
    """Returns one RGB colour for each class, the same in all images; labels are 1, 2, ..."""
    return palette()[(labels - 1) % len(palette())]


@functools.cache
def palette() -> UInt8[np.ndarray, "c 3"]:
    """Returns all RGB colours in use; each one differs most from all colours before it."""
    channel = np.linspace(0, 255, _LEVELS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(channel, channel, channel), axis=-1).reshape(-1, 3)
    lightness, green_red, blue_yellow = oklab(grid).T
    vivid = np.hypot(green_red, blue_yellow) > _MIN_CHROMA
    grid = grid[vivid & (lightness > _LIGHTNESS[0]) & (lightness < _LIGHTNESS[1])]
    apart = difference(grid, grid)
    order = [int((grid == _FIRST).all(1).argmax())]
    nearest = apart[order[0]]
    for _ in range(len(grid) - 1):
        nearest[order] = -1  # Exclude the colours chosen so far.
        order.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart[order[-1]])
    return grid[order]


@functools.cache
def _differences() -> Float[np.ndarray, "c c"]:
    return difference(palette(), palette())


def difference(
    a: UInt8[np.ndarray, "n 3"], b: UInt8[np.ndarray, "m 3"]
) -> Float[np.ndarray, "n m"]:
    """Returns the perceived difference of each pair of RGB colours.

    The difference is the distance in OKLab, and the minimum over three kinds of vision: full, and
    without red or green cones. Black and white differ by 1; differences below 0.02 are invisible.
    """
    apart = []
    for sight in (np.eye(3), np.array(_PROTANOPIA), np.array(_DEUTERANOPIA)):
        seen = oklab(a, sight)[:, None] - oklab(b, sight)[None]
        apart.append(np.sqrt((seen**2).sum(-1)))
    return np.min(apart, axis=0)


def oklab(
    colors: UInt8[np.ndarray, "n 3"], sight: Float[np.ndarray, "3 3"] | None = None
) -> Float[np.ndarray, "n 3"]:
    """Converts sRGB colours to OKLab, where distances match perception.

    Args:
        colors: sRGB.
        sight: A matrix that is applied to linear RGB, to simulate colour blindness.

    Returns:
        Lightness from 0 to 1 and two colour axes, green to red and blue to yellow.
    """
    encoded = colors / 255
    # The transfer function of sRGB.
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    if sight is not None:
        linear = np.clip(linear @ sight.T, 0, 1)
    return np.cbrt(linear @ np.array(_RGB_TO_CONES).T) @ np.array(_CONES_TO_LAB).T


def _gaps(boxes: Num[np.ndarray, "n 4"]) -> Float[np.ndarray, "n n"]:
    """Returns the distance of each pair of boxes in pixels; 0 if they touch."""
    near, far = np.asarray(boxes, float)[:, None, :2], np.asarray(boxes, float)[None, :, 2:]
    # On each axis, the gap from the end of the second box to the start of the first one.
    beyond = np.maximum(near - far, 0)
    between = np.maximum(beyond, beyond.transpose(1, 0, 2))
    return np.hypot(between[..., 0], between[..., 1])


def _mean_side(boxes: Num[np.ndarray, "n 4"]) -> float:
    return float((boxes[:, 2:] - boxes[:, :2]).mean()) if len(boxes) else 0.0
