"""Sizes of resized images, buckets, and resizing, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import resizing
from tests.test_images import slow_resize


@pytest.mark.parametrize(
    "size, expected",
    [
        ((480, 640), (800, 1066)),
        ((427, 640), (800, 1199)),
        ((426, 640), (800, 1201)),
        ((100, 1000), (133, 1333)),
        ((97, 97), (799, 799)),
        ((385, 640), (799, 1329)),
        ((1, 5000), (1, 1333)),
    ],
)
def test_resized_size_truncates(size, expected):
    assert resizing.resized_size(size, 800, 1333) == expected
    assert resizing.resized_size(np.array(size[::-1]), 800, 1333) == expected[::-1]


def test_resized_size_misses_the_short_side_as_often_as_torchvision():
    assert sum(resizing.resized_size((n, n), 800, 1333)[0] == 799 for n in range(1, 2001)) == 85


def test_resize_by_hand():
    image = np.array([[[0.0], [1.0]]], np.float32)
    np.testing.assert_allclose(
        resizing.resize(image, (1, 4))[0, :, 0], [0, 0.25, 0.75, 1], atol=1e-7
    )
    ramp = np.arange(8, dtype=np.float32).reshape(1, 8, 1) / 8
    # Without antialiasing.
    np.testing.assert_allclose(resizing.resize(ramp, (1, 2))[0, :, 0] * 8, [1.5, 5.5], atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_resize_equals_the_rule_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*rng.integers(1, 40, 2), 3), dtype=np.uint8)
    size = tuple(rng.integers(1, 90, 2).tolist())
    image = image if seed % 2 else (image / np.float32(255)).astype(np.float32)
    resized = resizing.resize(image, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, slow_resize(image, size), atol=1e-6)


def test_resize_stays_in_the_unit_interval_and_keeps_what_has_the_size():
    white = np.full((13, 17, 3), 255, np.uint8)
    resized = resizing.resize(white, (50, 61))
    assert resized.max() <= 1 and resized.min() > 1 - 1e-6
    noise = np.random.default_rng(0).random((9, 8, 3), np.float32)
    np.testing.assert_array_equal(resizing.resize(noise, (9, 8)), noise)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mirror(dtype):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(dtype)
    mirrored = resizing.mirror(image[:, 1:])
    assert mirrored.dtype == dtype and mirrored.flags.c_contiguous
    for column in range(4):
        np.testing.assert_array_equal(mirrored[:, column], image[:, 4 - column])


def test_ceil32():
    assert resizing.ceil32((800, 1066)) == (800, 1088)
    assert resizing.ceil32(np.array([1, 32])) == (32, 32)


def test_bucket_for_takes_the_smallest_that_holds_the_image():
    buckets = ((800, 1344), (1344, 800), (800, 1088), (1088, 800))
    assert resizing.bucket_for((800, 1066), buckets) == (800, 1088)
    assert resizing.bucket_for(np.array([800, 1088]), buckets) == (800, 1088)
    assert resizing.bucket_for((800, 1089), buckets) == (800, 1344)
    assert resizing.bucket_for((801, 700), buckets) == (1088, 800)
    assert resizing.bucket_for((10, 10), buckets) == (800, 1088)
    with pytest.raises(ValueError, match=r"1000x1000.*\(800, 1344\)"):
        resizing.bucket_for((1000, 1000), buckets)


@pytest.mark.parametrize(
    ("size", "buckets", "expected"),
    [
        ((100, 200), [(64, 64), (64, 96)], ((48, 96), (64, 96))),
        # The height limits both fits, so the smaller bucket is chosen.
        ((200, 100), [(64, 64), (64, 96)], ((64, 32), (64, 64))),
        ((32, 16), [(64, 96)], ((64, 32), (64, 96))),
        ((1000, 1), [(64, 64)], ((64, 1), (64, 64))),
    ],
)
def test_the_largest_size_that_fits_a_bucket(size, buckets, expected):
    assert resizing.largest_fit(size, buckets) == expected
    assert resizing.largest_fit(size, buckets[::-1]) == expected


@pytest.mark.parametrize(
    "size, torchvision, detectron2, mmdetection",
    [
        ((480, 640), (800, 1066), (800, 1067), (800, 1067)),
        ((427, 640), (800, 1199), (800, 1199), (800, 1199)),
        ((1080, 1920), (749, 1333), (750, 1333), (750, 1333)),
        ((189, 1302), (193, 1333), (194, 1333), (193, 1333)),
        ((612, 612), (800, 800), (800, 800), (800, 800)),
    ],
)
def test_the_libraries_resize_to_other_sizes(size, torchvision, detectron2, mmdetection):
    rules = {"torchvision": torchvision, "detectron2": detectron2, "mmdetection": mmdetection}
    for rule, expected in rules.items():
        assert resizing.resized_size(size, 800, 1333, rule) == expected, rule
        assert resizing.resized_size(size[::-1], 800, 1333, rule) == expected[::-1], rule


@pytest.mark.parametrize("target", [(30, 41), (90, 70), (50, 60)])
def test_pillows_filter_antialiases_and_rounds(target):
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize(target[::-1], Image.Resampling.BILINEAR)
    resized = resizing.resize(image, target, "pillow")
    np.testing.assert_allclose(resized * 255, np.asarray(expected), atol=2e-5)
    np.testing.assert_array_equal(resizing.resize_rounded(image, target, "pillow"), expected)
    four = np.concatenate([image, image[..., :1]], axis=2)
    assert resizing.resize(four, target, "pillow").shape == (*target, 4)
    np.testing.assert_allclose(resizing.resize(four, target, "pillow")[..., :3], resized, atol=1e-6)
    shrinks = target[0] < 50
    assert (np.abs(resizing.resize(image, target) - resized).max() > 0.1) == shrinks


def test_opencvs_filter_rounds_to_levels():
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    expected = cv2.resize(image, (41, 30), interpolation=cv2.INTER_LINEAR)
    resized = resizing.resize(image, (30, 41), "opencv")
    np.testing.assert_allclose(resized * 255, expected, atol=2e-5)


@pytest.mark.parametrize("how", ["pillow", "opencv"])
def test_images_without_levels_are_resized_alike(how):
    image = np.random.default_rng(0).random((50, 60, 3), np.float32)
    np.testing.assert_array_equal(
        resizing.resize(image, (30, 41), how), resizing.resize(image, (30, 41))
    )
