"""Names as training scripts write them."""

import numpy as np
import pytest

from maskrcnn_jax.weights import files, loading, prefixes
from tests.test_train import experiment, state_of


def is_known(names):
    return "rpn.bias" in names


GOOD = {"rpn.bias": 1, "backbone.kernel": 2}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "a.b.c.d."])
def test_a_common_prefix_is_taken_off_and_said(prefix, caplog):
    given = {prefix + name: value for name, value in GOOD.items()}
    assert prefixes.without(given | {"n_averaged": 3}, is_known) == GOOD
    (record,) = caplog.records
    assert repr(prefix) in record.getMessage()


@pytest.mark.parametrize(
    "given",
    [
        GOOD,
        {"module.rpn.bias": 1, "other.kernel": 2},
        {"module.rpn.weight": 1},
        {"rpn": 1},
        {"": 1},
        {},
    ],
)
def test_other_names_stay(given, caplog):
    assert prefixes.without(given, is_known) == given and not caplog.records


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_wrapped_detector_is_loaded(tmp_path, prefix):
    config = experiment()
    state = state_of(config.model)
    files.write(tmp_path / "w.safetensors", {prefix + name: x for name, x in state.items()})
    loaded = loading.load(tmp_path / "w.safetensors", config.model)
    kernel = loaded.variables["params"]["backbone"]["conv1"]["kernel"]
    expected = state["backbone.body.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)
