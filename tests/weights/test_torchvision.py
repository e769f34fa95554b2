"""torchvision's detectors: the table of names, and the config inferred from a file."""

from math import prod

import jax
import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import BoxHeadConfig, ModelConfig, ResNetConfig, RoIConfig
from maskrcnn_jax.variables import variable_shapes
from maskrcnn_jax.weights import torchvision
from tests.weights.states import small, state_of, with_counters

BUILDERS = {
    "v1": presets.maskrcnn_resnet50_fpn,
    "v1-batch-norm": lambda n: presets.maskrcnn_resnet50_fpn(n, norm="batch"),
    "v2": presets.maskrcnn_resnet50_fpn_v2,
    "faster-v1": presets.fasterrcnn_resnet50_fpn,
    "faster-v1-batch-norm": lambda n: presets.fasterrcnn_resnet50_fpn(n, norm="batch"),
    "faster-v2": presets.fasterrcnn_resnet50_fpn_v2,
}
VARIANTS = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def deep() -> ModelConfig:
    return ModelConfig(backbone=ResNetConfig(depth=152))


def narrow() -> ModelConfig:
    return ModelConfig(backbone=ResNetConfig(depth=18, stem_channels=32, norm="batch"))


def of_four_channels() -> ModelConfig:
    return ModelConfig(image_mean=(0.5,) * 4, image_std=(1.0,) * 4)


CONFIGS = [
    deep,
    narrow,
    of_four_channels,
    presets.maskrcnn_resnet50_fpn_v2,
    presets.fasterrcnn_resnet50_fpn,
]


@pytest.mark.parametrize("build", CONFIGS)
def test_every_variable_of_the_model_has_a_name(build):
    config = build()
    variables = variable_shapes(config)
    paths = jax.tree_util.tree_flatten_with_path(variables)[0]
    ours = {tuple(key.key for key in path): leaf.shape for path, leaf in paths}
    assert ours == {entry.path: entry.target for entry in torchvision.entries(config)}


@pytest.mark.parametrize(
    "name, num_arrays, num_params, num_others",
    [
        ("v1", 307, 44_401_393, 106_240),
        ("v1-batch-norm", 360, 44_454_513, 53_120),
        ("v2", 432, 46_359_409, 61_312),
        ("faster-v1", 295, 41_755_286, 106_240),
        ("faster-v2", 404, 43_712_278, 59_264),
    ],
)
def test_91_class_models_are_as_large_as_torchvisions(name, num_arrays, num_params, num_others):
    """torchvision's numbers of parameters exclude the four buffers of a frozen norm."""
    config = BUILDERS[name](91)
    table = list(torchvision.entries(config))
    variables = variable_shapes(config)
    num_ours = {
        collection: sum(x.size for x in jax.tree.leaves(tree))
        for collection, tree in variables.items()
    }
    assert num_ours.pop("params") == num_params
    assert sum(num_ours.values()) == num_others
    assert sum(prod(entry.shape) for entry in table) == num_params + num_others
    num_counters = sum(entry.path[0] == "batch_stats" for entry in table) // 2
    assert len(table) + num_counters == num_arrays


@VARIANTS
def test_round_trip(build):
    config = small(build(3))
    state = state_of(config)
    back = torchvision.to_state_dict(torchvision.from_state_dict(state, config), config)
    counters = [name for name in back if name.endswith(".num_batches_tracked")]
    num_norms = sum(name.endswith(".running_var") for name in state)
    assert len(counters) == num_norms * (config.backbone.norm == "batch")
    assert [name for name in back if name not in counters] == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_frozen_and_a_trained_norm_hold_the_same_arrays():
    frozen_config, trained_config = small(BUILDERS["v1"](3)), small(BUILDERS["v1-batch-norm"](3))
    state = state_of(frozen_config)
    counted = state | {"backbone.body.bn1.num_batches_tracked": np.array(7)}
    frozen = torchvision.from_state_dict(counted, frozen_config)["constants"]["backbone"]["bn1"]
    trained = torchvision.from_state_dict(state, trained_config)
    statistics, params = (trained[kind]["backbone"]["bn1"] for kind in ("batch_stats", "params"))
    np.testing.assert_array_equal(frozen["mean"], statistics["mean"])
    np.testing.assert_array_equal(frozen["scale"], params["scale"])


def test_axes_move_where_the_layers_expect_them():
    config = small(presets.maskrcnn_resnet50_fpn(3), stem_channels=64)
    state = state_of(config)
    params = torchvision.from_state_dict(state, config)["params"]
    conv = state["backbone.body.conv1.weight"]
    assert params["backbone"]["conv1"]["kernel"][1, 2, 0, 5] == conv[5, 0, 1, 2]
    deconv = state["roi_heads.mask_predictor.conv5_mask.weight"]
    assert params["mask_head"]["deconv"]["kernel"][1, 0, 4, 7] == deconv[4, 7, 1, 0]
    # torchvision flattens (channel, row, column); our models flatten (row, column, channel).
    linear = state["roi_heads.box_head.fc6.weight"].reshape(16, 8, 7, 7)
    assert params["box_head"]["fc6"]["kernel"][(2 * 7 + 3) * 8 + 5, 11] == linear[11, 5, 2, 3]


def test_every_misfit_is_listed():
    config = small(presets.maskrcnn_resnet50_fpn(3))
    state = state_of(config)
    del state["rpn.head.conv.0.0.bias"]
    state["backbone.body.fc.weight"] = np.zeros((1000, 512))
    state["roi_heads.box_predictor.cls_score.bias"] = np.zeros(91, np.float32)
    with pytest.raises(ValueError) as error:
        torchvision.from_state_dict(state, config)
    assert "missing rpn.head.conv.0.0.bias" in str(error.value)
    assert "unexpected backbone.body.fc.weight" in str(error.value)
    wrong = "roi_heads.box_predictor.cls_score.bias has shape (91,), expected (3,)"
    assert wrong in str(error.value)


def test_variables_that_do_not_fit_are_listed_by_our_names():
    config = small(presets.maskrcnn_resnet50_fpn(3))
    variables = torchvision.from_state_dict(state_of(config), config)
    del variables["params"]["fpn"]["lateral3"]["bias"]
    with pytest.raises(ValueError, match="missing params/fpn/lateral3/bias"):
        torchvision.to_state_dict(variables, config)


def test_a_norm_torchvision_lacks_is_refused():
    with pytest.raises(ValueError, match="group"):
        torchvision.from_state_dict({}, ModelConfig(backbone=ResNetConfig(norm="group")))


@VARIANTS
def test_the_network_of_a_file_follows_from_names_and_shapes(build):
    config = small(build(5), depth=50)
    state = state_of(config)
    if config.backbone.norm == "batch":
        state = with_counters(state)
    assert torchvision.recognises(state)
    assert torchvision.config(state) == config and torchvision.num_classes(state) == 5


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_is_told_from_the_others(depth):
    state = state_of(small(presets.maskrcnn_resnet50_fpn(5), depth))
    assert torchvision.config(state).backbone.depth == depth


def test_a_backbone_that_is_no_resnet_of_ours_is_refused():
    with pytest.raises(ValueError, match="no ResNet"):
        torchvision.config({"backbone.body.layer1.0.conv1.weight": np.zeros(1)})


@pytest.mark.parametrize("name", presets.PRESETS)
def test_each_preset_is_built_by_the_function_of_its_name(name):
    config = presets.PRESETS[name](7)
    assert torchvision.function_of(config) == name
    config.backbone.norm = "batch"
    assert torchvision.function_of(config) == name
    config.backbone.stride_in_1x1 = True
    assert torchvision.function_of(config) is None
    config = presets.PRESETS[name](7)
    config.backbone.depth = 101
    assert torchvision.function_of(config) is None


@pytest.mark.parametrize(
    "change, word",
    [
        ({"backbone": ResNetConfig(stem_channels=32)}, "stem_channels"),
        ({"backbone": ResNetConfig(stride_in_1x1=True)}, "stride_in_1x1"),
        ({"backbone": ResNetConfig(norm="group")}, 'backbone.norm "group"'),
        ({"box_head": BoxHeadConfig(num_layers=1)}, "box_head.num_layers"),
        ({"roi": RoIConfig(pooling="pool")}, "roi.pooling"),
        ({"roi": RoIConfig(aligned=True), "mask_head": None}, "roi.aligned"),
    ],
)
def test_what_torchvision_would_compute_otherwise_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        torchvision.check_can_build(ModelConfig(**change))


def test_what_torchvision_can_build_is_not_refused():
    torchvision.check_can_build(ModelConfig(backbone=ResNetConfig(depth=101)))
    torchvision.check_can_build(presets.fasterrcnn_resnet50_fpn())
