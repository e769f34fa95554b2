"""Weight files of our own: round trip, and refusals that name the file and everything wrong in it."""

import numpy as np
import pytest

from maskrcnn_jax.weights import files
from maskrcnn_jax.weights.files import load_backbone


@pytest.fixture
def variables():
    conv = {"kernel": np.zeros((3, 3, 2, 4), np.float32)}
    bn = {"mean": np.zeros(4, np.float32)}
    return {
        "params": {"backbone": {"conv1": conv}, "fpn": {"lateral2": {"bias": np.zeros(4, np.float32)}}},
        "constants": {"backbone": {"bn1": bn}},
    }


def test_backbone_is_replaced_and_what_the_file_lacks_is_kept(tmp_path, variables):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
    files.write(tmp_path / "w.npz", {"params/backbone/conv1/kernel": kernel})
    loaded = load_backbone(tmp_path / "w.npz", variables)
    np.testing.assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], kernel)
    np.testing.assert_array_equal(loaded["constants"]["backbone"]["bn1"]["mean"], 0)


def test_names_and_shapes_that_do_not_fit_are_listed_together(tmp_path, variables):
    arrays = {
        "params/backbone/conv1/kernel": np.zeros((1, 1, 2, 4)),
        "params/backbone/conv9/kernel": np.zeros(1),
        "params/fpn/lateral2/bias": np.zeros(4),  # Not part of the backbone.
    }
    files.write(tmp_path / "w.npz", arrays)
    with pytest.raises(ValueError, match="w.npz") as error:
        load_backbone(tmp_path / "w.npz", variables)
    for part in (
        "conv9/kernel is unexpected",
        "fpn/lateral2/bias is unexpected",
        "(1, 1, 2, 4), expected (3, 3, 2, 4)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 truncated"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, content):
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="w.npz"):
        files.read(path)


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, a=np.array([{"not": "an array"}], dtype=object))
    with pytest.raises(ValueError, match="w.npz"):
        files.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.npz"):
        files.read(tmp_path / "absent.npz")
