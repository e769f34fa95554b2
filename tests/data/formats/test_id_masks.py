"""Images whose pixels are the ids of objects."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.formats import id_masks
from maskrcnn_jax.data.outlines import Unusable


@pytest.mark.parametrize("seed", range(6))
def test_every_id_has_its_pixels(seed):
    rng = np.random.default_rng(seed)
    ids = rng.choice([0, 1, 7, 300], size=rng.integers(1, 9, 2)).astype(np.int32)
    found = id_masks.objects(ids)
    assert found.keys() == set(ids.ravel().tolist()) - {0}
    for value, mask in found.items():
        np.testing.assert_array_equal(rle.decode(mask, *ids.shape), ids == value)


def test_the_background_may_have_several_ids():
    ids = np.array([[0, 255], [3, 255]], np.int32)
    assert id_masks.objects(ids, background=(0, 255)).keys() == {3}
    assert id_masks.objects(np.zeros((2, 2), np.int32)) == {}


def test_a_photograph_is_no_mask_of_ids():
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert len(id_masks.objects(ids, most=12)) == 11  # The background is one of the twelve.
    with pytest.raises(Unusable, match="more than 11 values, and is no mask of ids"):
        id_masks.objects(ids, most=11)


def test_files(tmp_path):
    ids = np.array([[0, 300], [7, 7]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "a.png")
    found = id_masks.read(tmp_path / "a.png")
    assert found.dtype == np.int32 and found.tolist() == ids.tolist()
    with pytest.raises(Unusable, match="whose mask is missing"):
        id_masks.read(tmp_path / "b.png")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(Unusable, match="whose mask cannot be read"):
        id_masks.read(tmp_path / "b.png")
