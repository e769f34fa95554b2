"""Brightness, contrast, saturation and hue, against loops over pixels."""

import colorsys

import numpy as np
import pytest

from maskrcnn_jax.data import colours

GREY = np.array([0.2989, 0.587, 0.114])
TYPES = (np.uint8, np.uint16, np.float32)


def noise(dtype, channels=3):
    values = np.random.default_rng(0).random((9, 8, channels))
    values[0], values[1, :, :2] = values[0, :, :1], 0  # Grey and pure colours.
    return (values * (np.iinfo(dtype).max if dtype != np.float32 else 1)).astype(dtype)


def levels(dtype):
    return np.iinfo(dtype).max if dtype != np.float32 else None


def expected(values, dtype):
    """Rounds down to whole numbers of the range; floating-point numbers stay."""
    return values if levels(dtype) is None else np.floor(np.clip(values, 0, levels(dtype)))


def close(found, values, dtype, ulps=1):
    """Equal up to one level, or rounding errors."""
    assert found.dtype == dtype and found.shape == values.shape
    tolerance = 1e-5 if dtype == np.float32 else ulps
    np.testing.assert_allclose(found.astype(float), expected(values, dtype), atol=tolerance)


@pytest.fixture(params=[True, False], ids=["opencv", "numpy"])
def opencv(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(colours, "cv2", None)
    return request.param


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("dtype", TYPES)
def test_brightness_is_a_factor(dtype, channels, opencv):
    image = noise(dtype, channels)
    for factor in (0.5, 1.3):
        close(colours.adjust_brightness(image, factor), image * factor, dtype)


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("dtype", TYPES)
def test_contrast_moves_pixels_away_from_the_mean(dtype, channels, opencv):
    image = noise(dtype, channels)
    means = image.astype(float).mean((0, 1))
    mean = (means * GREY).sum() if channels == 3 else means
    for factor in (0.5, 1.5):
        values = image * factor + (1 - factor) * mean
        close(colours.adjust_contrast(image, factor), values, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_saturation_moves_pixels_away_from_their_grey(dtype, opencv):
    image = noise(dtype)
    grey = (image * GREY).sum(2, keepdims=True)
    for factor in (0.0, 0.5, 1.5):
        values = image * factor + (1 - factor) * grey
        close(colours.adjust_saturation(image, factor), values, dtype)


@pytest.mark.parametrize("shift", [-0.5, -0.04, 0.02, 0.3])
@pytest.mark.parametrize("dtype", TYPES)
def test_hue_turns_the_circle_of_hsv(dtype, shift, opencv):
    image, scale = noise(dtype), levels(dtype) or 1
    values = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / scale).tolist())
        values[place] = np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)) * scale
    close(colours.adjust_hue(image, shift), values, dtype, ulps=8 if opencv else 1)


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("dtype", TYPES)
def test_the_identity_changes_nothing(dtype, channels, opencv):
    image = noise(dtype, channels)
    for name, change in colours.CHANGES.items():
        if channels == 3 or name not in colours.OF_RGB:
            identity = 0.0 if name == "hue" else 1.0
            result, tolerance = change(image, identity), 1e-6 if dtype == np.float32 else 0
            np.testing.assert_allclose(result.astype(float), image, atol=tolerance)


def test_pixels_of_floats_keep_values_beyond_one():
    image = noise(np.float32) * 3 - 1
    grey = (image * GREY).sum(2, keepdims=True)
    close(colours.adjust_saturation(image, 1.5), image * 1.5 - 0.5 * grey, np.float32)
    turned = colours.adjust_hue(image, 1 / 3)
    np.testing.assert_allclose(turned, np.roll(image, 1, axis=2), atol=1e-5)
