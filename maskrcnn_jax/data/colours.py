"""Changes of brightness, contrast, saturation and hue, by the rules of torchvision.

Images are uint8, uint16 or float32, of any number of channels. Whole numbers are clipped to their
range and truncated after each change; floating-point pixels have no range and are not clipped.
"""

import numpy as np
from jaxtyping import Float, Shaped

try:
    import cv2
except ImportError:  # OpenCV is optional: it only makes these functions faster.
    cv2 = None

Image = Shaped[np.ndarray, "h w c"]

_GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # Of red, green and blue, as in torchvision.


def adjust_brightness(image: Image, factor: float) -> Image:
    """Multiplies all pixels by a factor."""
    return _scaled(image, factor, 0.0)


def adjust_contrast(image: Image, factor: float) -> Image:
    """Moves all pixels away from the mean by a factor.

    The mean is that of the grey values of an image with three channels. Otherwise each channel has
    its own, because channels may measure different things.
    """
    sums = image.sum(0, dtype=np.uint32 if image.dtype.kind == "u" else np.float64)
    means = sums.sum(0) / (image.shape[0] * image.shape[1])
    if image.shape[2] == 3:
        return _scaled(image, factor, (1 - factor) * float(means @ _GREY))
    return _as_pixels(image * np.float32(factor) + (1 - factor) * means, image.dtype)


def adjust_saturation(image: Shaped[np.ndarray, "h w 3"], factor: float) -> Image:
    """Moves all pixels away from their grey value by a factor."""
    mixing = factor * np.eye(3, dtype=np.float32) + np.float32(1 - factor) * _GREY
    if image.dtype == np.uint8 and cv2 is not None:
        return cv2.transform(image, mixing)
    return _as_pixels(image.astype(np.float32) @ mixing.T, image.dtype)


def adjust_hue(image: Shaped[np.ndarray, "h w 3"], shift: float) -> Image:
    """Turns the hues by a part of their circle, in the model HSV.

    OpenCV rounds hues and shifts of uint8 images to 256, which changes up to 9 levels.
    """
    if image.dtype == np.uint8 and cv2 is not None:
        steps = round(shift * 256) % 256
        if steps == 0:
            return image
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(steps)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    red, green, blue = np.moveaxis(image.astype(np.float32), 2, 0)
    largest = np.maximum(np.maximum(red, green), blue)
    range_ = largest - np.minimum(np.minimum(red, green), blue)
    divisor = np.where(range_ > 0, range_, 1)
    sixths = np.where(
        largest == red,
        (green - blue) / divisor,
        np.where(largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = np.empty(image.shape, np.float32)
    for channel, start in enumerate((5, 3, 1)):
        place = (start + sixths + np.float32(6 * shift)) % 6
        turned[..., channel] = largest - range_ * np.clip(np.minimum(place, 4 - place), 0, 1)
    return _as_pixels(turned if image.dtype == np.float32 else np.rint(turned), image.dtype)


CHANGES = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
OF_RGB = ("saturation", "hue")  # Other images have neither.


def _scaled(image: Image, factor: float, shift: float) -> Image:
    """Multiplies all pixels by a factor and adds a number, by a table if they are whole numbers."""
    if not np.issubdtype(image.dtype, np.integer):
        return image * np.float32(factor) + np.float32(shift)
    values = np.arange(np.iinfo(image.dtype).max + 1, dtype=np.float32)
    table = _as_pixels(values * np.float32(factor) + np.float32(shift), image.dtype)
    if image.dtype == np.uint8 and cv2 is not None:
        return cv2.LUT(image, table).reshape(image.shape)
    return table[image]


def _as_pixels(values: Float[np.ndarray, "..."], dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    return np.clip(values, 0, np.iinfo(dtype).max).astype(dtype)
