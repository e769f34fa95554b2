"""Our own names in weight files: compared without the collection."""

import numpy as np
import pytest

from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import own


def test_our_names_begin_with_a_collection():
    for name in ("params/fpn/bias", "constants/backbone/bn1/mean", "batch_stats/x"):
        assert own.recognises(["other", name])
    assert not own.recognises(["backbone.body.conv1.weight", "params.fpn", "my/params/fpn"])
    assert not own.recognises([]) and own.infer({}, {}) is None


def test_names_lose_their_collection_and_only_that():
    names = ("params/a/scale", "constants/a/mean", "a/batch_stats/b")
    state = {name: np.full(2, i) for i, name in enumerate(names)}
    arrays, old_names = own.present(state)
    assert {name: x.tolist() for name, x in arrays.items()} == {
        "a/scale": [0, 0],
        "a/mean": [1, 1],
        "a/batch_stats/b": [2, 2],
    }
    assert old_names == {}
    with pytest.raises(ValueError, match="a/scale is there twice"):
        own.present({"params/a/scale": np.zeros(1), "constants/a/scale": np.zeros(1)})


def test_the_classifier_says_the_number_of_classes():
    assert own.num_classes({"box_head/cls_score/bias": np.zeros(7)}) == 7
    assert own.num_classes({"box_head/stage_0/cls_score/bias": np.zeros(5)}) == 5
    assert own.num_classes({"fpn/bias": np.zeros(7)}) is None


def test_the_table_changes_no_array(monkeypatch):
    shapes = {
        "params": {"conv": {"kernel": np.zeros((3, 3, 2, 8))}},
        "constants": {"bn": {"mean": np.zeros(8)}},
    }
    monkeypatch.setattr(own, "variable_shapes", lambda config: shapes)
    kernel, mean = sorted(own.entries(ModelConfig()), key=lambda entry: -len(entry.shape))
    assert kernel.name == "conv/kernel" and kernel.path == ("params", "conv", "kernel")
    assert kernel.shape == kernel.view == kernel.target == (3, 3, 2, 8)
    assert kernel.axes == (0, 1, 2, 3) and mean.name == "bn/mean" and mean.axes == (0,)
