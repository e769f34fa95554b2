"""Transforms from outside the package, which change pixels, geometry and objects.

`tests/modules/test_backbones.py` trains on their images.
"""

import dataclasses

import jax
import numpy as np
import pytest

from maskrcnn_jax.data import masks, view
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.pipeline import train_batches
from maskrcnn_jax.data.transforms import standard
from tests.data.test_toy_dataset import CONFIG, Squares

DATASET = Squares()


def darken(rng, sample):
    return sample._replace(image=(sample.image * rng.uniform(0.5, 1)).astype(np.uint8))


def zoom_out(rng, sample):
    """Large-scale jitter that halves the size of an image."""
    height, width = sample.image.shape[:2]
    return samples.resize(sample, (height // 2, width // 2))


def zoom_in(rng, sample):
    """Large-scale jitter that doubles the size of a window, cut at x = 40 and y = 20."""
    return samples.resize(samples.crop(sample, samples.Window(0, 0, 20, 40)), (40, 80))


def forget(rng, sample):
    return samples.select(sample, [])


def paste_another(rng, sample):
    """Copy-paste of objects without their pixels; a pasted object hides parts of the first one."""
    other = view.train_view(rng, DATASET[int(rng.integers(len(DATASET)))], CONFIG)
    size = sample.image.shape[:2]
    mine, theirs = masks.to_bitmap(sample.masks[0], size), masks.to_bitmap(other.masks[0], size)
    return sample._replace(
        boxes=np.concatenate([sample.boxes, other.boxes]),
        classes=np.concatenate([sample.classes, other.classes]),
        masks=[masks.from_bitmap(mine & ~theirs), *other.masks],
    )


def first_batch(added_in_front=None, added=None, config=CONFIG, batch_size=8):
    stages = (added_in_front or {}) | standard(config) | (added or {})
    batches = train_batches(DATASET, config, batch_size=batch_size, seed=0, transforms=stages)
    batch = next(batches)
    batches.close()
    return batch


@pytest.fixture(scope="module")
def plain():
    return first_batch()


def test_by_default_the_transforms_are_those_of_the_config(plain):
    batches = train_batches(DATASET, CONFIG, batch_size=8, seed=0)
    jax.tree.map(np.testing.assert_array_equal, next(batches), plain)
    batches.close()


@pytest.mark.parametrize("place", ["added_in_front", "added"])
def test_another_transform_moves_no_draw_of_the_others(plain, place):
    changed = first_batch(**{place: {"darken": darken}})
    # Everything but the pixels is equal; in particular, the same images are flipped.
    jax.tree.map(np.testing.assert_array_equal, changed._replace(images=plain.images), plain)
    brightness = changed.images.max(axis=(1, 2, 3))
    # Each image has its own draw.
    assert brightness.min() >= 127 and len(set(brightness.tolist())) > 3
    np.testing.assert_array_equal(changed.images > 0, plain.images > 0)


def test_windows_and_sizes_stay_too():
    config = dataclasses.replace(CONFIG, short_sides=(40, 50, 64), crop_size=50)
    plain, changed = (first_batch(stages, config=config) for stages in ({}, {"darken": darken}))
    assert len(set(map(tuple, plain.sizes.tolist()))) > 1
    np.testing.assert_array_equal(plain.sizes, changed.sizes)
    np.testing.assert_array_equal(plain.images > 0, changed.images > 0)


def test_a_transform_scales_the_image_with_its_objects(plain):
    batch = first_batch(added={"zoom out": zoom_out})
    np.testing.assert_array_equal(batch.sizes, plain.sizes // 2)
    np.testing.assert_array_equal(batch.instances.boxes, plain.instances.boxes / 2)
    np.testing.assert_array_equal(batch.instances.masks.values, plain.instances.masks.values)


def test_a_transform_cuts_objects_before_their_masks_are_drawn():
    batch = first_batch(added_in_front={"zoom in": zoom_in})
    sides = np.minimum(20 + np.array(Squares.sides)[batch.image_id], 40) - 20
    boxes = batch.instances.boxes[:, 0]
    np.testing.assert_array_equal(boxes[:, 2] - boxes[:, 0], 2 * sides)
    np.testing.assert_array_equal(boxes[:, 3] - boxes[:, 1], 20)
    # Any part of a square fills its box.
    assert (batch.instances.masks.values[:, 0] == 255).all()


def test_a_transform_drops_objects():
    batch = first_batch(added={"forget": forget})
    assert not batch.instances.valid.any() and not batch.num_surplus.any()


def test_a_transform_adds_objects_of_another_image(plain):
    batch = first_batch(added={"paste": paste_another})
    assert batch.instances.valid.sum(axis=1).tolist() == [2] * 8
    np.testing.assert_array_equal(batch.instances.boxes[:, 0], plain.instances.boxes[:, 0])
    hidden = (batch.instances.masks.values[:, 0] < 255).any(axis=(1, 2))
    assert hidden.any() and (batch.instances.masks.values[:, 1] == 255).all()
    jax.tree.map(np.testing.assert_array_equal, first_batch(added={"paste": paste_another}), batch)
