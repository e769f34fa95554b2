"""Images whose pixels are the ids of objects."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from maskrcnn_jax import images
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.outlines import Unusable

MAX_IDS = 5000  # Photographs have more colours.


def read(path: Path) -> Int32[np.ndarray, "h w"]:
    """Reads the ids of an image file. Raises Unusable."""
    try:
        return images.read_ids(path)
    except FileNotFoundError as error:
        raise Unusable("whose mask is missing") from error
    except OSError as error:
        raise Unusable("whose mask cannot be read") from error


def objects(
    ids: Int32[np.ndarray, "h w"], background: tuple[int, ...] = (0,), most: int = MAX_IDS
) -> dict[int, dict[str, Any]]:
    """The run lengths of every id but those of the background.

    Raises Unusable if there are more than ``most`` ids.

    Each id is encoded in its own columns only: whole bitmaps of hundreds of objects take long.
    """
    height, width = ids.shape
    flat = ids.T.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.flatnonzero(np.diff(flat[order], prepend=flat[order[0]] - 1))
    if len(starts) > most:
        raise Unusable(f"whose mask has more than {most} values, and is no mask of ids")
    found = {}
    for places in np.split(order, starts[1:]):
        value = int(flat[places[0]])
        if value not in background:
            found[value] = _runs(places, height, width)
    return found


def _runs(places: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """The run lengths of ascending column-major places."""
    first = np.diff(places, prepend=-2) > 1
    last = np.append(first[1:], True)
    edges = np.stack([places[first], places[last] + 1], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width)
    return rle.encode({"size": [height, width], "counts": counts.tolist()}, height, width)
