"""Samples are packed into the static shapes of their bucket."""

import jax
import numpy as np
import pytest

from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data import rle
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.pack import batch_shapes, pack
from maskrcnn_jax.structures import Bitmaps, Crops
from tests.data import objects

BUCKET = (64, 96)


def sample(radii=(5, 8, 11, 14)):
    return samples.whole(
        objects.make_example([objects.disc(40, 50, 20, 20, radius) for radius in radii])
    )


def test_the_first_objects_with_an_extent_find_a_slot_and_the_rest_is_counted():
    given = sample()._replace(num_removed=5)
    given.boxes[1] = [9, 9, 9, 20]
    row = pack(given, BUCKET, DataConfig(max_instances=2, mask_size=28))
    np.testing.assert_array_equal(row.instances.classes, [1, 3])
    np.testing.assert_array_equal(row.instances.boxes, given.boxes[[0, 2]])
    assert row.instances.valid.all() and row.num_surplus == 1
    assert row.num_removed == 6  # The transforms removed five, and one has no extent.


def test_a_box_that_float32_leaves_without_an_extent_finds_no_slot():
    given = sample((5,))
    given.boxes[0] = [20, 10, 20 + 1e-9, 30]
    assert not pack(given, BUCKET, DataConfig()).instances.valid.any()


@pytest.mark.parametrize("as_polygons", [False, True])
def test_bitmaps_are_those_of_the_chosen_objects(as_polygons):
    polygons = [objects.polygon_of_disc(12, 20, radius) for radius in (5, 8, 11)]
    bitmaps = [rle.decode(polygon, 40, 40) for polygon in polygons]
    example = objects.make_example(bitmaps, polygons if as_polygons else None)
    example.boxes[1] = [9, 9, 9, 20]
    given = samples.crop(samples.whole(example), samples.Window(4, 0, 36, 40))
    row = pack(
        samples.resize(given, (72, 80)), (96, 96), DataConfig(max_instances=3, mask_store="full")
    )
    assert isinstance(row.instances.masks, Bitmaps)
    for slot, i in enumerate((0, 2)):
        expected = np.zeros((96, 96), np.uint8)
        expected[:72, :80] = bitmaps[i][4:].repeat(2, axis=0).repeat(2, axis=1) * 255
        np.testing.assert_array_equal(row.instances.masks.values[slot], expected)
    assert not row.instances.masks.values[2].any()


def test_a_crop_may_be_as_large_as_the_bucket():
    row = pack(sample((11,)), (64, 64), DataConfig(max_instances=2, mask_size=64))
    assert isinstance(row.instances.masks, Crops) and row.instances.masks.values.shape == (
        2,
        64,
        64,
    )
    pasted = objects.paste(row.instances.masks.values[0], row.instances.boxes[0], 40, 50)
    assert objects.iou(pasted, objects.disc(40, 50, 20, 20, 11)) > 0.9


def test_masks_can_be_left_out():
    row = pack(
        sample((11,))._replace(masks=[None]), BUCKET, DataConfig(max_instances=2), masks=False
    )
    assert row.instances.masks is None and row.instances.valid.tolist() == [True, False]


def test_an_object_without_a_mask_is_refused_where_masks_are_learnt_from():
    with pytest.raises(ValueError, match="image id 7 has an object without a mask"):
        pack(sample((11,))._replace(masks=[None]), BUCKET, DataConfig())


def test_an_image_that_a_transform_made_too_large_is_named():
    with pytest.raises(
        ValueError, match="image id 7 is of 40x50 pixels, more than its bucket of 32x64 holds"
    ):
        pack(sample(), (32, 64), DataConfig())


@pytest.mark.parametrize("num_channels", [1, 4])
def test_channels_are_those_of_the_image(num_channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, num_channels), np.uint8)
    row = pack(sample()._replace(image=image), BUCKET, DataConfig(max_instances=2))
    assert row.images.shape == (*BUCKET, num_channels)
    np.testing.assert_array_equal(row.images[:40, :50], image)
    assert not row.images[40:].any() and not row.images[:, 50:].any()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("mask_store", ["crop", "full"])
def test_shapes_of_a_batch_are_those_of_its_rows(mask_store, masks):
    config = Config(data=DataConfig(max_instances=3, mask_store=mask_store, mask_size=14))
    row = pack(sample(), BUCKET, config.data, masks=masks)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((5, *x.shape), x.dtype), row)
    assert batch_shapes(config, BUCKET, 5, masks=masks) == shapes


def test_a_batch_has_the_channels_of_the_model():
    config = Config()
    config.model.image_mean = (0.5,) * 5
    assert batch_shapes(config, BUCKET, 2).images.shape == (2, 64, 96, 5)
