"""Entries of PyTorch's layers: converted arrays compute the same."""

import numpy as np
import pytest

from maskrcnn_jax.weights import layout, pytorch_layers


def arranged(table):
    """Arrays of the table in which all numbers differ, by their names, and as variables."""
    rng = np.random.default_rng(0)
    table = list(table)
    arrays = {each.name: rng.normal(size=each.shape).astype(np.float32) for each in table}
    return arrays, layout.arrange(dict(arrays), table)


def test_a_convolution_reads_the_same_inputs():
    theirs, ours = arranged(pytorch_layers.convolution("a", ("b", "c"), 2, 3, 5))
    kernel = ours["params"]["b"]["c"]["kernel"]
    assert theirs["a.weight"].shape == (2, 3, 5, 5) and kernel.shape == (5, 5, 3, 2)
    assert kernel[1, 4, 2, 0] == theirs["a.weight"][0, 2, 1, 4]
    np.testing.assert_array_equal(ours["params"]["b"]["c"]["bias"], theirs["a.bias"])
    theirs, _ = arranged(pytorch_layers.convolution("a", ("b",), 2, 3, 5, bias=False))
    assert theirs.keys() == {"a.weight"}


def test_a_transposed_convolution_has_its_inputs_first():
    theirs, ours = arranged(pytorch_layers.transposed_convolution("a", ("b",), 3, 2, 4))
    kernel = ours["params"]["b"]["kernel"]
    assert theirs["a.weight"].shape == (3, 2, 4, 4) and kernel.shape == (4, 4, 3, 2)
    assert kernel[1, 3, 2, 0] == theirs["a.weight"][2, 0, 1, 3]


def test_a_linear_layer_over_a_feature_map():
    """PyTorch flattens it as (channels, height, width), we as (height, width, channels)."""
    theirs, ours = arranged(pytorch_layers.linear("a", ("b",), 4, (3, 2, 5)))
    features = np.random.default_rng(1).normal(size=(3, 2, 5))
    expected = theirs["a.weight"] @ features.ravel()
    found = features.transpose(1, 2, 0).ravel() @ ours["params"]["b"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_linear_layer_over_features():
    theirs, ours = arranged(pytorch_layers.linear("a", ("b",), 4, (3,)))
    np.testing.assert_array_equal(ours["params"]["b"]["kernel"], theirs["a.weight"].T)
    assert ours["params"]["b"]["bias"].shape == (4,)


@pytest.mark.parametrize(
    "norm, collections",
    [
        ("batch", ("params", "params", "batch_stats", "batch_stats")),
        ("frozen_batch", ("constants",) * 4),
        ("fixed_batch", ("params", "params", "constants", "constants")),
        ("group", ("params", "params")),
        ("layer", ("params", "params")),
    ],
)
def test_norms_have_their_collections(norm, collections):
    table = list(pytorch_layers.normalisation("a", ("b",), 6, norm))
    names = ["a.weight", "a.bias", "a.running_mean", "a.running_var"][: len(collections)]
    ours = ["scale", "bias", "mean", "var"][: len(collections)]
    assert [each.name for each in table] == names
    pairs = zip(collections, ours, strict=True)
    assert [each.path for each in table] == [(collection, "b", name) for collection, name in pairs]
    assert {each.shape for each in table} == {(6,)}
