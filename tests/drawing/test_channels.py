"""The channels that drawings show."""

import numpy as np
import pytest

from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.drawing import channels


def noise(count, dtype=np.uint8):
    values = np.random.default_rng(0).integers(0, 200, (6, 7, count))
    return values.astype(dtype)


@pytest.mark.parametrize(
    "count, shown, drawn",
    [
        (1, (), [0, 0, 0]),
        (2, (), [0, 0, 0]),
        (3, (), [0, 1, 2]),
        (13, (), [0, 1, 2]),
        (13, (12, 3, 0), [12, 3, 0]),
        (13, (5,), [5, 5, 5]),
    ],
)
def test_channels_are_chosen(count, shown, drawn):
    image = noise(count)
    np.testing.assert_array_equal(channels.rgb(image, shown), image[:, :, drawn])


def test_photographs_are_not_copied():
    image = noise(3)
    assert channels.rgb(image) is image


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_pixels_are_stretched_in_each_channel(dtype):
    image = np.zeros((20, 50, 3), dtype)
    image[..., 0] = np.arange(1000).reshape(20, 50)  # Percentiles 1 and 99: 9.99 and 989.01.
    image[..., 1] = 60_000
    drawn = channels.rgb(image)
    expected = np.clip((np.arange(1000) - 9.99) / 979.02, 0, 1) * 255
    np.testing.assert_allclose(drawn[..., 0].reshape(-1), expected, atol=0.51)
    assert drawn.dtype == np.uint8 and not drawn[..., 1:].any()


@pytest.mark.parametrize("shown", [(0, 1), (13,), (0, 1, 13), (0, 1, 2, 3)])
def test_channels_that_are_not_there_are_refused(shown):
    with pytest.raises(ValueError, match="must be three of the 13 channels, from 0 to 12"):
        channels.rgb(noise(13), shown)


def test_a_data_set_is_shown():
    nothing = np.zeros((0, 4), np.float32)
    image = noise(4)
    example = Example(image, 7, nothing, np.zeros(0, np.int32), [])

    class Images:
        image_ids = (7,)

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return [example][index]

    shown = channels.Shown(Images(), (3,))
    assert len(shown) == 1 and shown.image_ids == (7,) and shown[0].image_id == 7
    np.testing.assert_array_equal(shown[0].image, image[:, :, [3, 3, 3]])
