import numpy as np
import pytest

from maskrcnn_jax.image_files import bands
from maskrcnn_jax.image_files.bands import Bands
from tests.image_files.files import pixels


@pytest.mark.parametrize(
    "count, has_alpha, wanted, kept",
    [
        (1, False, 1, [0]),
        (1, False, 3, [0, 0, 0]),
        (2, True, 1, [0]),
        (2, True, 2, [0, 1]),
        (2, True, 3, [0, 0, 0]),
        (4, True, 3, [0, 1, 2]),
        (4, True, 4, [0, 1, 2, 3]),
        (4, True, None, [0, 1, 2, 3]),
        (13, False, 13, range(13)),
    ],
)
def test_alpha_is_dropped_and_grey_repeated(count, has_alpha, wanted, kept):
    array = pixels(3, 4, count)
    fitted = bands.fit(Bands(array, has_alpha), wanted)
    np.testing.assert_array_equal(fitted, array[:, :, list(kept)])


@pytest.mark.parametrize(
    "count, has_alpha, wanted, found",
    [
        (3, False, 1, "3 channels"),
        (1, False, 4, "1 channel"),
        (4, False, 3, "4 channels"),
        (13, False, 4, "13 channels"),
        (4, True, 1, "4 channels, the last of them alpha"),
    ],
)
def test_another_number_of_channels_is_refused(count, has_alpha, wanted, found):
    message = f"it has {found}; expected {wanted}, as image_mean has"
    with pytest.raises(ValueError, match=message):
        bands.fit(Bands(pixels(3, 4, count), has_alpha), wanted)


def test_white_is_1_and_floating_point_stays():
    both = pixels(3, 4, 2, dtype=np.uint8), pixels(3, 4, 2)
    for array, largest in zip(both, (255, 65535), strict=True):
        converted = bands.convert(array, "float32")
        assert converted.dtype == np.float32
        np.testing.assert_allclose(converted, array / largest, rtol=2e-7)
    for dtype in (np.float16, np.float32, np.float64):
        array = pixels(3, 4, 2, dtype=dtype)
        converted = bands.convert(array, "float32")
        assert converted.dtype == np.float32
        np.testing.assert_array_equal(converted, array.astype(np.float32))


def test_eight_bits_are_rounded():
    np.testing.assert_array_equal(
        bands.convert(np.array([[[0, 128, 129, 65535]]], np.uint16), "uint8"), [[[0, 0, 1, 255]]]
    )
    np.testing.assert_array_equal(
        bands.convert(np.array([[[0, 0.5 / 255 + 1e-3, 1]]]), "uint8"), [[[0, 1, 255]]]
    )
    same = pixels(3, 4, 2, dtype=np.uint8)
    assert bands.convert(same, "uint8") is same and bands.convert(same, None) is same


@pytest.mark.parametrize("bad, dtype", [(np.nan, "float32"), (-np.inf, "float32"), (1e300, None)])
def test_pixels_that_are_no_numbers_are_refused(bad, dtype):
    array = np.zeros((2, 2, 3))
    array[1, 1, 0] = bad
    with pytest.raises(ValueError, match="1 of 12 values are NaN, infinite or beyond float32"):
        bands.convert(array, dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, bool, np.complex64])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=f"type {np.dtype(dtype).name}: save it as uint8, uint16"):
        bands.convert(np.zeros((2, 2, 1), dtype), "float32")
