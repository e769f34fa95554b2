"""The table of torchvision's names: complete, invertible, and strict about what it is given."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.weights import torchvision


def tiny() -> ModelConfig:
    return ModelConfig(depth=18, num_classes=3, fpn_channels=8, box_head_features=16, mask_head_channels=12)


def state_of(config: ModelConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {e.name: random.normal(size=e.shape).astype(np.float32) for e in torchvision.entries(config)}


@pytest.mark.parametrize("depth", [18, 50, 152])
def test_every_variable_of_the_model_has_a_name(depth):
    config = ModelConfig(depth=depth)
    images, sizes = jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]])
    variables = jax.eval_shape(MaskRCNN(config).init, jax.random.key(0), images, sizes)
    ours = {
        tuple(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]
    }
    assert ours == {entry.path: entry.target for entry in torchvision.entries(config)}


def test_the_91_class_model_is_as_large_as_torchvisions():
    table = list(torchvision.entries(ModelConfig(num_classes=91)))
    assert len(table) == 307
    assert sum(prod(entry.shape) for entry in table if entry.path[0] == "params") == 44_401_393
    assert sum(prod(entry.shape) for entry in table if entry.path[0] == "constants") == 106_240


def test_round_trip():
    config = tiny()
    state = state_of(config)
    back = torchvision.to_state_dict(torchvision.from_state_dict(state, config), config)
    assert list(back) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


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
    state["backbone.body.bn1.num_batches_tracked"] = np.array(0)
    state["roi_heads.box_predictor.cls_score.bias"] = np.zeros(91, np.float32)
    with pytest.raises(ValueError) as error:
        torchvision.from_state_dict(state, config)
    assert "missing rpn.head.conv.0.0.bias" in str(error.value)
    assert "unexpected backbone.body.bn1.num_batches_tracked" in str(error.value)
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
