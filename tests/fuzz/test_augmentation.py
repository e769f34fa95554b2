"""Random images, objects and settings: what holds for every augmented image."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import copy_paste, masks, rle, transforms
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.pack import pack
from tests.fuzz import guard

sides = st.integers(1, 48)
seeds = st.integers(0, 2**32 - 1)
chances = st.sampled_from((0.0, 0.5, 1.0))
kinds = st.lists(st.sampled_from(("polygon", "bitmap", "box")), max_size=5)
pixels = st.tuples(
    st.sampled_from((1, 3, 4, 13)), st.sampled_from((np.uint8, np.uint16, np.float32))
)


@st.composite
def examples(draw, image_id=0, pixels=pixels, kinds=kinds):
    """An image of noise with upright rectangles, which stay what they are at any size."""
    height, width, (channels, dtype) = draw(sides), draw(sides), draw(pixels)
    rng = np.random.default_rng(draw(seeds))
    boxes, annotated = [], []
    for kind in draw(kinds):
        (top, bottom), (left, right) = (_ends(rng, side) for side in (height, width))
        bitmap = np.zeros((height, width), bool)
        bitmap[top:bottom, left:right] = True
        corners = [[left, top, right, top, right, bottom, left, bottom]]
        forms = {"polygon": corners, "bitmap": rle.encode_bitmap(bitmap), "box": None}
        annotated.append(forms[kind])
        boxes.append([left, top, right, bottom])
    image = rng.random((height, width, channels)) * (1 if dtype == np.float32 else 255)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(1, len(boxes) + 1, dtype=np.int32)
    return Example(image.astype(dtype), image_id, boxes, labels, annotated)


def _ends(rng, side):
    first = int(rng.integers(side))
    return first, int(rng.integers(first + 1, side + 1))


# Every transform, for images that fit into squares of 64. The test makes a config of them: checks
# of types draw random numbers, which no strategy may.
settings = st.fixed_dictionaries(
    {
        "short_sides": st.tuples(st.integers(1, 64)),
        "crop_size": st.none() | st.integers(1, 50),
        "jitter": st.sampled_from(((), (0.1, 2.0), (1.0, 1.0), (1.5, 2.0))),
        "jitter_side": st.integers(1, 64),
        "jitter_rule": st.sampled_from(("torchvision", "detectron2")),
        "crop_fraction": st.sampled_from(((), (0.01, 0.1), (0.2, 1.0), (1.0, 1.0))),
        "horizontal_flip": chances,
        "vertical_flip": chances,
        "quarter_turn": chances,
        "copy_paste": chances,
        "distortion": chances,
        "mask_store": st.sampled_from(("crop", "full")),
    }
)


def bitmaps(sample):
    """Each mask in pixels of the image; None for objects without one."""
    size = sample.image.shape[:2]
    return [None if x is None else masks.to_window(x, 0, 0, *size) for x in sample.masks]


def check_objects(sample):
    """A box lies in the image, and disagrees with its mask by a pixel at most.

    The pixel is one of the annotation where that is larger.
    """
    height, width = sample.image.shape[:2]
    assert len(sample.boxes) == len(sample.classes) == len(sample.masks)
    assert (sample.boxes > -1e-4).all()
    assert (sample.boxes < np.array([width, height, width, height]) + 1e-4).all()
    for box, mask, bitmap in zip(sample.boxes, sample.masks, bitmaps(sample), strict=True):
        if bitmap is not None and bitmap.any():
            pixel = max(mask.rows.scale, mask.columns.scale, 1)
            assert abs(masks.bounds(bitmap, 0, 0) - box).max() <= pixel + 1e-3
        elif bitmap is not None:
            assert (box[2:] - box[:2]).min() < 1


def same(a, b):
    """Two samples are equal, but for rounding errors in boxes."""
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-9)
    np.testing.assert_array_equal(a.classes, b.classes)
    for ours, theirs in zip(bitmaps(a), bitmaps(b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(
    images=st.tuples(*(examples(i, pixels=st.just((3, np.uint8))) for i in range(3))),
    chosen=settings,
    seed=seeds,
)
def test_boxes_fit_masks_and_every_draw_repeats(images, chosen, seed):
    with guard.limits("test_boxes_fit_masks_and_every_draw_repeats", 100_000):
        config = DataConfig(max_long_side=64, buckets=((64, 64),), mask_size=14, **chosen)
        stages = transforms.standard(config, images)
        results = [transforms.train_sample(x, (seed,), config, stages) for x in images]
        for sample in results:
            check_objects(sample)
            assert max(sample.image.shape[:2]) <= 64
            without = None in sample.masks
            row = pack(sample, (64, 64), config, masks=not without)
            if not without:
                again = transforms.train_sample(images[sample.image_id], (seed,), config, stages)
                second = pack(again, (64, 64), config)
                np.testing.assert_array_equal(row.images, second.images)
                np.testing.assert_array_equal(row.instances.boxes, second.instances.boxes)
                values = row.instances.masks.values, second.instances.masks.values
                np.testing.assert_array_equal(*values)


@given(example=examples())
def test_flips_and_turns_undo_themselves(example):
    with guard.limits("test_flips_and_turns_undo_themselves", 100_000):
        sample = samples.whole(example)
        for flip in (samples.flip_horizontally, samples.flip_vertically, samples.transpose):
            same(flip(flip(sample)), sample)
        turned = sample
        for _ in range(4):
            turned = samples.turn(turned, 1)
            check_objects(turned)
        same(turned, sample)
        same(samples.turn(samples.turn(sample, 3), 1), sample)
        twice, both = samples.turn(sample, 2), samples.flip_horizontally(sample)
        same(twice, samples.flip_vertically(both))


@given(example=examples(), seed=seeds)
def test_identities_change_nothing(example, seed):
    with guard.limits("test_identities_change_nothing", 100_000):
        sample, rng = samples.whole(example), np.random.default_rng(seed)
        off = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0)}
        config = DataConfig(distortion=1.0, hue=(0.0, 0.0), **off)
        close = transforms.distort(rng, sample, config)
        np.testing.assert_allclose(close.image.astype(float), sample.image, atol=1e-5)
        for result in (
            transforms.crop(rng, sample, (1.0, 1.0)),
            transforms.horizontal_flip(rng, sample, 0.0),
            transforms.vertical_flip(rng, sample, 0.0),
            transforms.quarter_turn(rng, sample, 0.0),
            copy_paste.paste(sample, samples.select(sample, [])),
            close._replace(image=sample.image),
        ):
            same(result, sample)


@given(data=st.data(), kind=pixels)
def test_pasted_masks_overlap_nothing(data, kind):
    with guard.limits("test_pasted_masks_overlap_nothing", 200_000):
        images = [data.draw(examples(i, st.just(kind))) for i in range(2)]
        below, above = map(samples.whole, images)
        above = samples.select(above, [i for i, x in enumerate(above.masks) if x is not None])
        if data.draw(st.booleans()):
            above = samples.turn(above, 1)
        rooms = np.subtract(below.image.shape[:2], above.image.shape[:2]).tolist()
        place = [data.draw(st.integers(min(x, 0), max(x, 0))) for x in rooms]
        result = copy_paste.paste(below, above, *place)
        check_objects(result)
        count = len(below.boxes) - result.num_removed
        drawn = bitmaps(result)
        pasted = sum((x.astype(int) for x in drawn[count:]), np.zeros(result.image.shape[:2], int))
        assert pasted.max() <= 1
        for bitmap in drawn[:count]:
            assert bitmap is None or not (bitmap & (pasted > 0)).any()
        # Nothing but pasted pixels changes.
        np.testing.assert_array_equal(result.image[pasted == 0], below.image[pasted == 0])
