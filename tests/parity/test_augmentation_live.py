"""Our augmentations beside those of torchvision, with the same random numbers."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the live comparison needs torch")

from maskrcnn_jax.config import DataConfig  # noqa: E402
from maskrcnn_jax.data import colours, copy_paste, masks, rle, view  # noqa: E402
from maskrcnn_jax.data import sample as samples  # noqa: E402
from tests.data import objects  # noqa: E402

pytestmark = pytest.mark.parity
SIZE = (48, 64)


@pytest.fixture(scope="module")
def theirs():
    """torchvision's transforms, and torch."""
    from benchmarks import torchvision_transforms

    return torchvision_transforms


def discs(seed, count=4):
    """An image of smooth noise with discs as bitmaps."""
    rng = np.random.default_rng(seed)
    found = [objects.disc(*SIZE, *rng.uniform(8, SIZE), rng.uniform(4, 14)) for _ in range(count)]
    example = objects.make_example([x for x in found if x.any()])
    image = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return example._replace(image=image)


def as_tensors(theirs, sample):
    """An image as (c, h, w), and its boxes, labels and masks."""
    torch, size = theirs.torch, sample.image.shape[:2]
    drawn = [masks.to_bitmap(x, size) // 255 for x in sample.masks]
    target = {
        "boxes": torch.tensor(sample.boxes, dtype=torch.float32),
        "labels": torch.tensor(sample.classes),
        "masks": torch.tensor(np.array(drawn, np.uint8).reshape(-1, *size)),
    }
    return torch.tensor(np.ascontiguousarray(sample.image.transpose(2, 0, 1))), target


@pytest.mark.parametrize("seed", range(12))
def test_jitter(theirs, seed):
    example = discs(seed)
    fill = tuple(x / 255 for x in theirs.FILL)
    settings = {"jitter": (0.1, 2.0), "jitter_side": 40, "jitter_fill": fill}
    config = DataConfig(jitter_rule="torchvision", resize="pillow", **settings)
    sample = view.train_view(np.random.default_rng(seed), example, config)
    rng = np.random.default_rng(seed)
    factor, place = rng.uniform(0.1, 2.0), rng.random()
    image, target = as_tensors(theirs, samples.whole(example))
    image, target = theirs.scale_jitter(image, target, factor, 40)
    image, target = theirs.fixed_size_crop(image, target, place, 40)
    # Both filters antialias and round to whole levels.
    difference = abs(sample.image.astype(int) - image.permute(1, 2, 0).numpy())
    assert difference.max() <= 1
    # torchvision keeps cut objects of which nothing is visible, and boxes as they were cut.
    drawn = target["masks"].numpy()
    numbers = target["labels"].tolist()
    assert set(sample.classes.tolist()) <= set(numbers)
    for box, label, mask in zip(sample.boxes, sample.classes, sample.masks, strict=True):
        i = numbers.index(label)
        np.testing.assert_array_equal(masks.to_bitmap(mask, (40, 40)) > 0, drawn[i] > 0)
        cut = target["boxes"][i].numpy()
        assert (cut[:2] - 1e-4 <= box[:2]).all() and (box[2:] <= cut[2:] + 1e-4).all()
    for label in set(numbers) - set(sample.classes.tolist()):
        shown = drawn[numbers.index(label)].astype(bool)
        extent = masks.bounds(shown, 0, 0)
        assert (extent[2:] - extent[:2]).min() <= 1


@pytest.mark.parametrize("seed", range(8))
def test_copy_paste(theirs, seed):
    below, above = (samples.whole(discs(i)) for i in (seed, seed + 100))
    # torchvision leaves overlaps between pasted objects as they were annotated.
    drawn = [masks.to_bitmap(x, SIZE) > 0 for x in above.masks]
    apart = [
        x & ~np.any([*drawn[i + 1 :], np.zeros(SIZE, bool)], axis=0) for i, x in enumerate(drawn)
    ]
    kept = [i for i, x in enumerate(apart) if x.any()]
    above = samples.select(above, kept)._replace(
        masks=[masks.from_bitmap(apart[i]) for i in kept],
        boxes=np.array([objects.tight(apart[i]) for i in kept], float).reshape(-1, 4),
    )
    result = copy_paste.paste(below, above)
    ours, other = as_tensors(theirs, below), as_tensors(theirs, above)
    image, target = theirs.simple_copy_paste(*ours, *other, theirs.torch.arange(len(kept)))
    np.testing.assert_array_equal(result.image, image.permute(1, 2, 0).numpy())
    expected = target["masks"].numpy() > 0
    # Its boxes end at the last pixel, ours behind it: what is left of an object in one row or
    # column has no area there, and is dropped.
    num_below = len(result.boxes) - len(kept)
    is_thin = (result.boxes[:, 2:] - result.boxes[:, :2] < 2).any(1)
    result = samples.select(
        result, np.flatnonzero(~is_thin | (np.arange(len(is_thin)) >= num_below))
    )
    found = [masks.to_bitmap(x, SIZE) > 0 for x in result.masks]
    np.testing.assert_array_equal(found, expected)
    boxes = np.array([objects.tight(x) for x in expected])
    np.testing.assert_array_equal(result.boxes, boxes)
    np.testing.assert_array_equal(result.classes, target["labels"].numpy())


@pytest.mark.parametrize("with_opencv, levels", [(False, 1), (True, 9)])
def test_changes_of_colours(theirs, with_opencv, levels, monkeypatch):
    if not with_opencv:
        monkeypatch.setattr(colours, "cv2", None)
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    tensor = theirs.torch.tensor(image.transpose(2, 0, 1).copy())
    for name, values in (
        ("brightness", (0.875, 1.125)),
        ("contrast", (0.5, 1.5)),
        ("saturation", (0.5, 1.5)),
        ("hue", (-0.05, 0.03)),
    ):
        for value in values:
            expected = getattr(theirs.transforms, f"adjust_{name}")(tensor, value)
            found = colours.CHANGES[name](image, value).astype(int)
            difference = abs(found - expected.permute(1, 2, 0).numpy())
            assert difference.max() <= (levels if name == "hue" else 1), name


def test_flips_and_quarter_turns(theirs):
    sample = samples.whole(discs(3))
    image, target = as_tensors(theirs, sample)
    flipped, turned = samples.flip_horizontally(sample), samples.turn(sample, 1)
    other, other_target = theirs.horizontal_flip(image, target)
    np.testing.assert_array_equal(flipped.image, other.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(flipped.boxes, other_target["boxes"].numpy())
    quarter = theirs.transforms.rotate(image, 90, expand=True)
    np.testing.assert_array_equal(turned.image, quarter.permute(1, 2, 0).numpy())
    drawn = theirs.transforms.rotate(target["masks"], 90, expand=True).numpy() > 0
    found = [masks.to_bitmap(x, turned.image.shape[:2]) > 0 for x in turned.masks]
    np.testing.assert_array_equal(found, drawn)
    assert rle.decode(sample.masks[0].annotation, *SIZE).any()
