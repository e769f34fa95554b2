"""Three channels of an image, or one, as the colours of a drawing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from maskrcnn_jax.data.dataset import Example

_BOUNDS = (1, 99)  # Percentiles of the values that become black and white.


def rgb(
    image: Shaped[np.ndarray, "h w c"], shown: Sequence[int] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """Chooses the channels to draw.

    Values of uint8 stay. Others have no natural black and white: in each channel the lowest and the
    highest hundredth of the image's values become these.

    Args:
        image: uint8, uint16 or floating point.
        shown: Three positions of channels from 0, for red, green and blue, or one for grey. By
            default the first three, or the first if there are one or two.

    Raises:
        ValueError: The image has no such channels.
    """
    count = image.shape[2]
    shown = tuple(shown) or tuple(range(3 if count >= 3 else 1))
    if len(shown) not in (1, 3) or not all(0 <= x < count for x in shown):
        raise ValueError(
            f"data.shown_channels must be three of the {count} channels, from 0 to {count - 1}, or "
            f"one of them; got {shown}"
        )
    chosen = image if shown == (0, 1, 2) and count == 3 else image[:, :, list(shown)]
    if chosen.dtype != np.uint8:
        low, high = np.percentile(chosen, _BOUNDS, axis=(0, 1), keepdims=True)
        scaled = (chosen - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
        chosen = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return np.repeat(chosen, 3, axis=2) if len(shown) == 1 else chosen


class Shown:
    """A data set whose images have only the channels to draw, as `rgb` makes them."""

    def __init__(self, dataset: Any, shown: Sequence[int]) -> None:
        """Chooses the channels of all images; see `rgb`."""
        self._dataset, self._shown = dataset, tuple(shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Reads one image. Raises the errors of the data set and of `rgb`."""
        example = self._dataset[index]
        return example._replace(image=rgb(example.image, self._shown))
