"""Names as training scripts write them."""

import numpy as np
import pytest

from maskrcnn_jax.weights import backbones, files, loading, prefixes
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
        {"a.b.c.d.e.f.rpn.bias": 1},
        {"module.rpn.weight": 1},
        {"rpn": 1},
        {"": 1},
        {},
    ],
)
def test_other_names_stay(given, caplog):
    assert prefixes.without(given, is_known) == given and not caplog.records


def test_arrays_of_losses_and_metrics_beside_the_model_are_left_out(caplog):
    given = {"model." + name: value for name, value in GOOD.items()}
    others = {"criterion.weight": 3, "val_map.detection_scores": 4, "steps": 5}
    assert prefixes.without(others | given, is_known) == GOOD
    (record,) = caplog.records
    told = record.getMessage()
    assert "2 of 5 arrays, whose names begin with 'model.'" in told and "criterion.weight" in told


@pytest.mark.parametrize("average", ["model_ema.module.", "ema.", "teacher.model.", "avg_model."])
def test_an_average_beside_the_model_is_not_taken(average):
    averages = {average + name: -1 for name in GOOD}
    given = {"model.net." + name: value for name, value in GOOD.items()}
    assert prefixes.without(averages | given, is_known) == GOOD
    assert prefixes.without(averages, is_known) == dict.fromkeys(GOOD, -1)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_round_a_part_of_the_model(wrapper, caplog):
    given = {"rpn.bias": 1, f"backbone.{wrapper}.kernel": 2}
    assert prefixes.without(given, is_known) == GOOD
    (record,) = caplog.records
    assert wrapper in record.getMessage()


def test_wrappers_stay_if_two_arrays_would_share_a_name():
    given = {"rpn.bias": 1, "rpn._orig_mod.bias": 2}
    assert prefixes.without(given, is_known) == given


@pytest.mark.parametrize("prefix", ["module.", "module.encoder_q.", "_orig_mod."])
def test_a_wrapped_backbone_is_loaded(tmp_path, prefix):
    config = experiment()
    state = state_of(config.model)
    body = "backbone.body."
    state = {prefix + x.removeprefix(body): y for x, y in state.items() if x.startswith(body)}
    files.write(tmp_path / "w.safetensors", state | {f"{prefix}fc.weight": np.zeros((3, 4))})
    variables = {"params": {"backbone": {"conv1": {"kernel": np.zeros(1)}}}}
    loaded = backbones.load(str(tmp_path / "w.safetensors"), variables, config.model)
    kernel = loaded["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, state[f"{prefix}conv1.weight"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_wrapped_detector_is_loaded(tmp_path, prefix):
    config = experiment()
    state = state_of(config.model)
    files.write(tmp_path / "w.safetensors", {prefix + name: x for name, x in state.items()})
    loaded = loading.load(tmp_path / "w.safetensors", config.model)
    kernel = loaded.variables["params"]["backbone"]["conv1"]["kernel"]
    expected = state["backbone.body.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)
