"""`TiledDetector`: its arguments, its outputs, and a real model window by window."""

from types import SimpleNamespace

import numpy as np
import pytest

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.tiling.detector import TiledDetector
from tests.tiling.test_seams import Perfect, scene


@pytest.fixture(scope="module")
def tiled():
    return TiledDetector(Perfect(), 64, 0.25)


def test_outputs_have_the_form_that_is_asked_for(tiled):
    image = scene((30, 30, 90, 80), (0, 200, 10, 230))
    expected = np.stack([image[:, :, 0] == number for number in (1, 2)])
    cropped = tiled(image, masks="cropped")
    assert cropped["labels"].tolist() == [2, 3] and cropped["boxes"].dtype == np.float32
    for (patch, (y, x)), full in zip(cropped["masks"], expected, strict=True):
        np.testing.assert_array_equal(patch, full[y : y + patch.shape[0], x : x + patch.shape[1]])
        assert patch.sum() == full.sum()
    for run_lengths, full in zip(tiled(image)["masks"], expected, strict=True):
        np.testing.assert_array_equal(rle.decode(run_lengths, *full.shape), full)
    np.testing.assert_array_equal(tiled(image, masks="pasted")["masks"][:, 0], expected)


def test_the_best_of_the_whole_image_are_kept(tiled):
    image = scene((0, 0, 9, 9), (0, 100, 9, 109), (150, 100, 159, 109))
    assert len(tiled(image)["boxes"]) == 3
    assert tiled(image, top_k=2)["scores"].tolist() == tiled(image)["scores"][:2].tolist()
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        tiled(image, top_k=0)


def test_any_object_with_slices_is_an_image_and_is_read_by_windows(tiled, tmp_path):
    array, read = scene((30, 30, 90, 80)), []

    class Slices:
        shape = array.shape

        def __getitem__(self, part):
            read.append(tuple(side.stop - side.start for side in part))
            return array[part]

    assert len(tiled(Slices())["boxes"]) == 1
    assert set(read) == {(64, 64)} and len(read) == len(tiled.grid(array))
    np.save(tmp_path / "a.npy", array)
    assert len(tiled(np.load(tmp_path / "a.npy", mmap_mode="r"))["boxes"]) == 1


def test_progress_counts_windows(tiled):
    counted = []
    tiled.detect(scene(), advance=counted.append)
    assert sum(counted) == len(tiled.grid(scene())) and max(counted) == Perfect.batch_size


def test_pixels_that_are_wrong_are_placed(tiled):
    image = scene().astype(np.float32)
    image[100, 100] = 3
    with pytest.raises(ValueError, match=r"rows .48, 112., columns .48, 112.: .*\[0, 1\]"):
        tiled(image)
    with pytest.raises(ValueError, match="expected an image with a shape .*, got str"):
        tiled("a.png")


@pytest.mark.parametrize("overlap", [1, -0.1, 0.95, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap must be from 0 to 0.9"):
        TiledDetector(Perfect(), 64, overlap)


@pytest.mark.parametrize("tile", [0, -5, 63])
def test_a_tile_that_is_too_small_for_the_anchors_is_refused(tile):
    with pytest.raises(ValueError, match=f"a tile of {tile} pixels is too small.*anchors"):
        TiledDetector(Perfect(), tile)


def test_a_detector_without_masks(monkeypatch):
    class Boxes(Perfect):
        model = SimpleNamespace(config=SimpleNamespace(mask_head=None))

        def detect_batch(self, batch, score_threshold=None):
            return [x._replace(patches=None) for x in super().detect_batch(batch)]

    found = TiledDetector(Boxes(), 64, 0.25)(scene((30, 30, 90, 80)))
    assert "masks" not in found
    np.testing.assert_array_equal(found["boxes"], [[30, 30, 80, 90]])


@pytest.mark.slow
def test_a_real_model_is_compiled_once_for_all_windows(tiny, compilations):
    data = DataConfig(test_short_side=64, test_max_long_side=64, test_buckets=((64, 64),))
    categories = Categories.numbered(tiny.model.config.num_classes - 1)
    detector = Detector(tiny.model, tiny.variables, categories, data)
    detector._apply = tiny.detect
    image = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    tiled = detector.tiled(64, 0.25)
    tiled.detect(image)
    before = len(compilations)
    found = tiled.detect(image[::-1], 0.3)
    assert len(compilations) == before
    assert len(found.boxes) and len(tiled.grid(image)) == 6
    (alone,) = detector(image[:64, :64], 0.3)
    inside = tiled(image[:64, :64], 0.3, masks="pasted")
    for name in alone:
        np.testing.assert_array_equal(inside[name], alone[name])
