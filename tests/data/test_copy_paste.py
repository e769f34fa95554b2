"""Objects of one image pasted over another one."""

import numpy as np
import pytest

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import copy_paste, masks, rle
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.pack import pack
from tests.data import objects

SIZE = (30, 40)


def block(top, left, bottom, right, size=SIZE):
    bitmap = np.zeros(size, bool)
    bitmap[top:bottom, left:right] = True
    return bitmap


def sample(*bitmaps, seed=0, size=SIZE, channels=3, dtype=np.uint8):
    """A sample of an image of noise; objects of None have the box 5, 5, 15, 15 and no mask."""
    drawn = [block(5, 5, 15, 15, size) if x is None else x for x in bitmaps]
    example = objects.make_example(drawn or [block(0, 0, 1, 1, size)])
    image = np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(dtype)
    placed = [None if x is None else y for x, y in zip(bitmaps, example.masks, strict=False)]
    example = example._replace(image=image, image_id=seed, masks=placed)
    kept = slice(len(bitmaps))
    return samples.whole(example._replace(boxes=example.boxes[kept], classes=example.classes[kept]))


def drawn(result, i):
    return masks.to_window(result.masks[i], 0, 0, *result.image.shape[:2])


def oracle(below, bitmaps, above, pasted):
    """Pastes one object after the other, pixel by pixel; returns the image and all bitmaps."""
    image, remaining = below.image.copy(), [bitmap.copy() for bitmap in bitmaps]
    for bitmap in pasted:
        for y, x in np.argwhere(bitmap):
            image[y, x] = above.image[y, x]
            for lower in remaining:
                lower[y, x] = False
        remaining.append(bitmap.copy())
    return image, remaining


@pytest.mark.parametrize("seed", range(6))
def test_pixels_masks_and_boxes_are_those_of_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    bitmaps = [objects.disc(*SIZE, *rng.uniform(0, SIZE), rng.uniform(3, 12)) for _ in range(6)]
    below, above = sample(*bitmaps[:3]), sample(*bitmaps[3:], seed=1)
    image, expected = oracle(below, bitmaps[:3], above, bitmaps[3:])
    result = copy_paste.paste(below, above)
    np.testing.assert_array_equal(result.image, image)
    shown = [bitmap for bitmap in expected if bitmap.any()]
    assert len(result.boxes) == len(shown)
    for i, bitmap in enumerate(shown):
        np.testing.assert_array_equal(drawn(result, i), bitmap)
        np.testing.assert_array_equal(result.boxes[i], objects.tight(bitmap))
    assert sum(drawn(result, i).astype(int) for i in range(3, len(shown))).max() == 1
    assert result.num_removed == sum(not bitmap.any() for bitmap in expected[:3])
    assert result.image_id == below.image_id


def test_an_object_that_vanishes_is_removed_and_counted():
    below = sample(block(10, 10, 20, 20), block(0, 0, 5, 5))
    result = copy_paste.paste(below, sample(block(9, 9, 21, 21), seed=1))
    assert result.classes.tolist() == [2, 1] and result.num_removed == 1
    np.testing.assert_array_equal(result.boxes, [[0, 0, 5, 5], [9, 9, 21, 21]])


def test_only_what_is_near_a_pasted_object_changes():
    below = sample(block(10, 10, 20, 20), block(10, 30, 20, 40), block(25, 0, 30, 5))
    result = copy_paste.paste(below, sample(block(15, 0, 16, 25), block(10, 36, 20, 40), seed=1))
    # The first one is cut in two and keeps its box, the second one loses its right part.
    expected = [[10, 10, 20, 20], [30, 10, 36, 20], [0, 25, 5, 30]]
    np.testing.assert_array_equal(result.boxes[:3], expected)
    assert result.masks[2] is below.masks[2] and drawn(result, 0).sum() == 90


def test_an_object_without_a_mask_counts_as_its_box():
    half = copy_paste.paste(sample(None), sample(block(0, 0, 30, 10), seed=1))
    np.testing.assert_array_equal(half.boxes, [[10, 5, 15, 15], [0, 0, 10, 30]])
    assert half.masks[0] is None
    gone = copy_paste.paste(sample(None), sample(block(0, 0, 30, 30), seed=1))
    assert len(gone.boxes) == 1 and gone.num_removed == 1


def test_what_is_left_of_less_than_a_pixel_is_removed():
    below = sample(block(10, 10, 20, 20))
    below = below._replace(boxes=np.array([[10.0, 10.0, 19.5, 20.0]]))
    result = copy_paste.paste(below, sample(block(10, 0, 20, 19), seed=1))
    assert len(result.boxes) == 1 and result.num_removed == 1


@pytest.mark.parametrize("place", [(3, 5), (-10, -20), (-4, 30)])
def test_an_image_of_another_size_is_shifted_and_cut_off(place):
    size = (50, 60)
    other = sample(block(0, 0, 50, 60, size), seed=1, size=size)
    result = copy_paste.paste(sample(), other, *place)
    top, left = place
    area = np.s_[max(top, 0) : top + 50, max(left, 0) : left + 60]
    expected = sample().image.copy()
    part = other.image[max(-top, 0) :, max(-left, 0) :]
    expected[area] = part[: expected[area].shape[0], : expected[area].shape[1]]
    np.testing.assert_array_equal(result.image, expected)
    np.testing.assert_array_equal(
        result.boxes, [[max(left, 0), max(top, 0), min(left + 60, 40), min(top + 50, 30)]]
    )
    covered = np.zeros(SIZE, bool)
    covered[area] = True
    np.testing.assert_array_equal(drawn(result, 0), covered)
    assert result.num_removed == 0


def test_what_was_cropped_off_the_other_image_is_not_pasted():
    other = samples.crop(sample(block(0, 0, 30, 40), seed=1), samples.Window(0, 0, 30, 10))
    result = copy_paste.paste(sample(block(0, 20, 30, 40)), other)
    np.testing.assert_array_equal(result.image[:, 10:], sample().image[:, 10:])
    row = pack(result, (32, 64), DataConfig(mask_store="full", max_instances=2))
    assert row.instances.masks.values.any(0)[:, 10:20].sum() == 0


@pytest.mark.parametrize("with_opencv", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_pixels_may_have_any_type_and_any_channels(channels, dtype, with_opencv, monkeypatch):
    if not with_opencv:
        monkeypatch.setattr(copy_paste, "cv2", None)
    kind = {"channels": channels, "dtype": dtype}
    below, above = sample(**kind), sample(block(3, 4, 20, 30), seed=1, **kind)
    result = copy_paste.paste(below, above)
    expected = below.image.copy()
    expected[3:20, 4:30] = above.image[3:20, 4:30]
    np.testing.assert_array_equal(result.image, expected)
    assert result.image.dtype == dtype


def test_images_of_different_kinds_are_refused():
    with pytest.raises(ValueError, match="image id 1 has 4 channels of uint8, and cannot be past"):
        copy_paste.paste(sample(), sample(block(0, 0, 2, 2), seed=1, channels=4))


def test_an_image_of_one_pixel():
    one = (1, 1)
    result = copy_paste.paste(
        sample(block(0, 0, 1, 1, one), size=one), sample(block(2, 2, 9, 9), seed=1), -4, -4
    )
    np.testing.assert_array_equal(result.boxes, [[0, 0, 1, 1]])
    assert result.num_removed == 1


def pasted(seed, others, below=None, probability=1.0):
    """Calls `copy_paste.copy_paste`, and pastes from the other samples without a view."""
    return copy_paste.copy_paste(
        np.random.default_rng(seed),
        sample() if below is None else below,
        probability,
        others,
        lambda example, seed: example,
    )


def test_each_object_is_pasted_with_a_probability_of_two_thirds_and_each_image_equally_often():
    bitmaps = [block(0, 3 * i, 30, 3 * i + 3) for i in range(12)]
    others = [sample(*bitmaps, seed=1), sample(None, *bitmaps[:1], seed=2)]
    results = [pasted(seed, others) for seed in range(200)]
    counts = np.array([len(x.boxes) for x in results])
    first = counts > 1
    assert 70 < first.sum() < 130 and (counts[~first] == 1).all()
    # 1 - (1 - 1/12)^12
    assert abs(counts[first].mean() / 12 - 0.648) < 0.04
    assert len({tuple(x.classes) for x in results}) > 50
    # The second image has one object with a mask, the second of its objects.
    assert all(x.classes.tolist() == [2] for x in results if len(x.boxes) == 1)


def test_nothing_happens_without_objects_masks_or_a_readable_image():
    below = sample(block(0, 0, 5, 5))
    for other in (None, sample(seed=1), sample(None, seed=1)):
        assert pasted(0, [other], below) is below
    assert pasted(0, [sample(block(0, 0, 9, 9), seed=1)], below, probability=0.0) is below


def test_a_smaller_image_may_be_anywhere_inside_and_a_larger_one_anywhere_around():
    small, large = (28, 40), (30, 42)
    tops = {
        int(pasted(seed, [sample(block(0, 0, 28, 40, small), seed=1, size=small)]).boxes[0, 1])
        for seed in range(40)
    }
    lefts = {
        int(pasted(seed, [sample(block(0, 2, 30, 3, large), seed=1, size=large)]).boxes[0, 0])
        for seed in range(40)
    }
    assert tops == {0, 1, 2} and lefts == {0, 1, 2}


def test_masks_of_pasted_objects_survive_both_stores():
    disc = objects.disc(*SIZE, 15, 20, 9)
    result = copy_paste.paste(sample(block(0, 0, 30, 20)), sample(disc, seed=1))
    for store in ("crop", "full"):
        row = pack(result, (32, 64), DataConfig(mask_store=store, max_instances=3, mask_size=56))
        values, boxes = row.instances.masks.values, row.instances.boxes
        for i, expected in enumerate((block(0, 0, 30, 20) & ~disc, disc)):
            found = values[i, :30, :40] > 127
            if store == "crop":
                found = objects.paste(values[i], boxes[i], *SIZE)
            assert objects.iou(found, expected) > 0.97
    assert rle.decode(result.masks[1].annotation, 18, 18).sum() == disc.sum()
