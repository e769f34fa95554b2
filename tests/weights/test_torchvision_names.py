"""The table of torchvision's names: complete, invertible, and strict about what it is given."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.weights import torchvision

V1 = {}
V1_BATCH_NORM = {"norm": "batch"}
V2 = V1_BATCH_NORM | {"fpn_norm": "batch", "rpn_head_convs": 2, "box_head_convs": 4, "box_head_layers": 1}
V2 |= {"box_head_norm": "batch", "mask_head_norm": "batch"}
VARIANTS = pytest.mark.parametrize("variant", [V1, V1_BATCH_NORM, V2], ids=["v1", "v1-batch-norm", "v2"])


def tiny(**variant) -> ModelConfig:
    return ModelConfig(depth=18, num_classes=3, fpn_channels=8, box_head_features=16, mask_head_channels=12, **variant)


def state_of(config: ModelConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {e.name: random.normal(size=e.shape).astype(np.float32) for e in torchvision.entries(config)}


@pytest.mark.parametrize(
    "config", [ModelConfig(depth=152), ModelConfig(**V2), ModelConfig(depth=18, stem_channels=32, **V1_BATCH_NORM)]
)
def test_every_variable_of_the_model_has_a_name(config):
    images, sizes = jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]])
    variables = jax.eval_shape(MaskRCNN(config).init, jax.random.key(0), images, sizes)
    ours = {
        tuple(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]
    }
    assert ours == {entry.path: entry.target for entry in torchvision.entries(config)}


@pytest.mark.parametrize(
    "variant, num_arrays, num_params, num_others",
    [(V1, 307, 44_401_393, 106_240), (V1_BATCH_NORM, 360, 44_454_513, 53_120), (V2, 432, 46_359_409, 61_312)],
    ids=["v1", "v1-batch-norm", "v2"],
)
def test_91_class_models_are_as_large_as_torchvisions(variant, num_arrays, num_params, num_others):
    config = ModelConfig(num_classes=91, **variant)
    table = list(torchvision.entries(config))
    variables: dict = {}
    for entry in table:
        variables.setdefault(entry.path[0], []).append(prod(entry.shape))
    assert sum(variables.pop("params")) == num_params
    assert sum(sum(sizes) for sizes in variables.values()) == num_others
    num_counters = sum(entry.path[0] == "batch_stats" for entry in table) // 2
    assert len(table) + num_counters == num_arrays


@VARIANTS
def test_round_trip(variant):
    config = tiny(**variant)
    state = state_of(config)
    back = torchvision.to_state_dict(torchvision.from_state_dict(state, config), config)
    counters = [name for name in back if name.endswith(".num_batches_tracked")]
    assert len(counters) == sum(name.endswith(".running_var") for name in state) * (config.norm == "batch")
    assert [name for name in back if name not in counters] == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_frozen_and_a_trained_norm_hold_the_same_arrays():
    state = state_of(tiny())
    frozen = torchvision.from_state_dict(state | {"backbone.body.bn1.num_batches_tracked": np.array(7)}, tiny())
    trained = torchvision.from_state_dict(state, tiny(norm="batch"))
    np.testing.assert_array_equal(
        frozen["constants"]["backbone"]["bn1"]["mean"], trained["batch_stats"]["backbone"]["bn1"]["mean"]
    )
    np.testing.assert_array_equal(
        frozen["constants"]["backbone"]["bn1"]["scale"], trained["params"]["backbone"]["bn1"]["scale"]
    )


def test_axes_move_where_the_layers_expect_them():
    config = tiny()
    state = state_of(config)
    params = torchvision.from_state_dict(state, config)["params"]
    conv = state["backbone.body.conv1.weight"]
    assert params["backbone"]["conv1"]["kernel"][1, 2, 0, 5] == conv[5, 0, 1, 2]
    deconv = state["roi_heads.mask_predictor.conv5_mask.weight"]
    assert params["mask_head"]["deconv"]["kernel"][1, 0, 4, 7] == deconv[4, 7, 1, 0]
    # torchvision flattens (channel, row, column), we (row, column, channel).
    linear = state["roi_heads.box_head.fc6.weight"].reshape(16, 8, 7, 7)
    assert params["box_head"]["fc6"]["kernel"][(2 * 7 + 3) * 8 + 5, 11] == linear[11, 5, 2, 3]


def test_every_misfit_is_listed():
    config = tiny()
    state = state_of(config)
    del state["rpn.head.conv.0.0.bias"]
    state["backbone.body.fc.weight"] = np.zeros((1000, 512))
    state["roi_heads.box_predictor.cls_score.bias"] = np.zeros(91, np.float32)
    with pytest.raises(ValueError) as error:
        torchvision.from_state_dict(state, config)
    assert "missing rpn.head.conv.0.0.bias" in str(error.value)
    assert "unexpected backbone.body.fc.weight" in str(error.value)
    assert "roi_heads.box_predictor.cls_score.bias has shape (91,), expected (3,)" in str(error.value)


def test_variables_that_do_not_fit_are_listed_by_our_names():
    config = tiny()
    variables = torchvision.from_state_dict(state_of(config), config)
    del variables["params"]["fpn"]["lateral3"]["bias"]
    with pytest.raises(ValueError, match="missing params/fpn/lateral3/bias"):
        torchvision.to_state_dict(variables, config)


def test_a_norm_torchvision_lacks_is_refused():
    with pytest.raises(ValueError, match="group"):
        torchvision.from_state_dict({}, ModelConfig(norm="group"))
