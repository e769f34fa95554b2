"""Caffe2's names: detectors of Detectron 1, and backbones that start a training."""

import jax
import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.weights import (
    backbones,
    detectron1,
    detectron2,
    files,
    layout,
    loading,
    mmdetection,
    torchvision_resnet,
)
from tests.weights.families import reduced, state_of


def written(tmp_path, state):
    """Writes arrays; `test_array_pickle` has the files that Caffe2 and Detectron 1 write."""
    files.write(tmp_path / "w.safetensors", state)
    return tmp_path / "w.safetensors"


def folded(state):
    """As in most files: the statistics of norms are in their scale and bias."""
    return {name: x for name, x in state.items() if "running_" not in name}


def test_names_are_detectron_1s():
    shapes = layout.shapes(detectron1.entries(presets.detectron2_r50_fpn().model))
    expected = {
        "conv1_w": (64, 3, 7, 7),
        "res_conv1_bn_s": (64,),
        "res2_0_branch1_w": (256, 64, 1, 1),
        "res2_0_branch1_bn_b": (256,),
        "res4_5_branch2c_bn_s": (1024,),
        "fpn_inner_res5_2_sum_w": (256, 2048, 1, 1),
        "fpn_inner_res4_5_sum_lateral_b": (256,),
        "fpn_res3_3_sum_w": (256, 256, 3, 3),
        "conv_rpn_fpn2_w": (256, 256, 3, 3),
        "rpn_cls_logits_fpn2_b": (3,),
        "rpn_bbox_pred_fpn2_b": (12,),
        "fc6_w": (1024, 12544),
        "fc7_b": (1024,),
        "cls_score_w": (81, 1024),
        "bbox_pred_b": (324,),
        "_[mask]_fcn4_b": (256,),
        "conv5_mask_w": (256, 256, 2, 2),
        "mask_fcn_logits_b": (81,),
    }
    assert {name: shapes[name] for name in expected} == expected
    shapes = layout.shapes(detectron1.entries(presets.detectron2_r50_fpn_gn().model))
    for name in ("conv1_gn_s", "res3_1_branch2b_gn_b", "fpn_inner_res5_2_sum_gn_s"):
        assert name in shapes
    assert "head_conv4_gn_b" in shapes and "_[mask]_fcn1_gn_s" in shapes


@pytest.mark.parametrize("build", [presets.detectron2_r50_fpn, presets.detectron2_r50_fpn_gn])
def test_a_detector_is_loaded_with_its_background_first(tmp_path, build):
    config = reduced(build(4), depth=50)
    state = folded(state_of(detectron1, config))
    blobs = state | {f"{name}_momentum": x for name, x in state.items()}
    loaded = loading.load(written(tmp_path, blobs))
    model = loaded.config.model
    assert model.backbone.depth == 50 and model.num_classes == 4 and not model.roi.aligned
    assert model.backbone.norm == config.model.backbone.norm
    assert model.box_head == config.model.box_head and model.mask_head == config.model.mask_head
    params = loaded.variables["params"]
    np.testing.assert_array_equal(params["box_head"]["cls_score"]["bias"], state["cls_score_b"])
    np.testing.assert_array_equal(
        params["backbone"]["conv1"]["kernel"], state["conv1_w"].transpose(2, 3, 1, 0)[:, :, ::-1]
    )
    if model.backbone.norm == "frozen_batch":
        norm = loaded.variables["constants"]["backbone"]["bn1"]
        np.testing.assert_array_equal(norm["mean"], 0)
        np.testing.assert_allclose(norm["var"] + 1e-5, 1, rtol=1e-7)
    assert "Detectron 1" in str(loaded.report)


def test_detectors_without_a_pyramid_are_named(tmp_path):
    state = {"res2_0_branch2a_w": np.ones(1), "cls_score_w": np.ones(1), "cls_score_b": np.ones(1)}
    with pytest.raises(ValueError, match="of Detectron 1 and has no feature pyramid"):
        loading.load(written(tmp_path, state))


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        num_classes=3,
        image_mean=presets.CAFFE_MEAN,
        image_std=presets.CAFFE_STD,
        backbone=ResNetConfig(depth=50, stem_channels=4, stride_in_1x1=True),
    )


def caffe2(config):
    """``R-50.pkl`` of Caffe2, with names from before and after, and a classifier."""
    random = np.random.default_rng(0)
    table = [detectron1.renamed_entry(x, config) for x in torchvision_resnet.entries(config)]
    state = {x.name: random.normal(size=x.shape).astype(np.float32) for x in table}
    extra = {"conv1_b": np.zeros(4, np.float32), "fc1000_w": np.ones((10, 128), np.float32)}
    return state | extra | {"fc1000_b": np.ones(10, np.float32)}


def variables():
    return {"params": {"backbone": {}, "fpn": {"kept": np.ones(1)}}}


@pytest.mark.parametrize("names", ["present", "old"])
def test_a_backbone_of_caffe2_starts_a_training(tmp_path, config, names):
    state = caffe2(config)
    if names == "old":
        for old, new in detectron1.RENAMED.items():
            state = {
                (x.removesuffix(new) + old if x.endswith(new) else x): array
                for x, array in state.items()
            }
        assert "res_conv1_bn_gamma" in state and "res_conv1_bn_riv" in state
    loaded = backbones.load(str(written(tmp_path, state)), variables(), config)
    kernel = loaded["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, state["conv1_w"].transpose(2, 3, 1, 0)[:, :, ::-1])
    assert loaded["params"]["fpn"]["kept"] == 1
    assert loaded["constants"]["backbone"]["bn1"]["var"].shape == (4,)


@pytest.mark.parametrize("scale, is_bgr", [(1, False), (58, True)])
def test_a_backbone_with_detectron2s_names(tmp_path, config, scale, is_bgr):
    whole = presets.detectron2_r50_fpn(3)
    whole.model.backbone.stem_channels = 4
    state = state_of(detectron2, whole, scale=scale)
    bare = {
        name.removeprefix(detectron2.BODY): array
        for name, array in state.items()
        if name.startswith(detectron2.BODY)
    }
    loaded = backbones.load(str(written(tmp_path, bare)), variables(), config)
    kernel = bare["stem.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
        loaded["params"]["backbone"]["conv1"]["kernel"], kernel[:, :, ::-1] if is_bgr else kernel
    )


def test_fairs_resnext_learned_from_divided_bgr_pixels(tmp_path):
    """X-101-32x8d.pkl, narrower."""
    groups = {"groups": 32, "width_per_group": 8}
    config = ModelConfig(backbone=ResNetConfig(depth=101, stem_channels=8, **groups))
    state = caffe2(config)
    assert state["res2_0_branch2b_w"].shape == (32, 1, 3, 3)
    loaded = backbones.load(str(written(tmp_path, state)), variables(), config)
    kernel = loaded["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, state["conv1_w"].transpose(2, 3, 1, 0)[:, :, ::-1])
    grouped = loaded["params"]["backbone"]["layer3_22"]["conv2"]["kernel"]
    np.testing.assert_array_equal(grouped, state["res4_22_branch2b_w"].transpose(2, 3, 1, 0))
    config.backbone.groups, config.backbone.width_per_group = 1, 64
    with pytest.raises(ValueError, match="holds a ResNeXt-101-32x8d.*set its depth=101, groups=32"):
        backbones.load(str(written(tmp_path, state)), variables(), config)


def test_pixels_of_another_scale_are_refused(tmp_path, config):
    state = caffe2(config)
    config.image_std = (0.2, 0.2, 0.2)
    with pytest.raises(ValueError, match="w.safetensors learned from BGR pixels.*image_std"):
        backbones.load(str(written(tmp_path, state)), variables(), config)


def test_misfits_are_listed(tmp_path, config):
    state = caffe2(config)
    del state["res3_0_branch1_w"]
    with pytest.raises(ValueError, match="not fit the backbone(.|\n)*missing res3_0_branch1_w"):
        backbones.load(str(written(tmp_path, state)), variables(), config)


def test_a_backbone_is_no_detector(tmp_path, config):
    with pytest.raises(ValueError, match="give it as backbone_weights"):
        loading.load(written(tmp_path, caffe2(config)))


def torchvision_names(config, scale):
    random = np.random.default_rng(0)
    table = list(torchvision_resnet.entries(config))
    state = {x.name: random.normal(size=x.shape).astype(np.float32) for x in table}
    squares = np.square(state["conv1.weight"]).sum((1, 2, 3))
    return state | {"bn1.running_var": squares * np.float32(scale) ** 2}


@pytest.mark.parametrize("scale, is_bgr", [(1, False), (58, True)])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_backbones_of_openmmlab_have_torchvisions_names(tmp_path, config, scale, is_bgr, prefix):
    state = torchvision_names(config, scale)
    named = {f"{prefix}{name}": x for name, x in state.items()}
    named |= {"head.fc.weight": np.ones((10, 128))} if prefix else {}
    loaded = backbones.load(str(written(tmp_path, named)), variables(), config)
    kernel = state["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
        loaded["params"]["backbone"]["conv1"]["kernel"], kernel[:, :, ::-1] if is_bgr else kernel
    )


def group_norm_names(kind, config):
    """The arrays of a backbone with group norm, as each library names them."""
    family = detectron1 if kind == "caffe2" else mmdetection if kind == "mmdet" else detectron2
    random = np.random.default_rng(0)
    prefix = {"detectron2": detectron2.BODY, "mmdet": mmdetection.BODY}.get(kind, "")
    named = {}
    for entry in family.entries(config):
        if entry.path[1] == "backbone":
            array = random.normal(size=entry.shape).astype(np.float32)
            named[entry.name.removeprefix(prefix)] = array
    return named, family.STEM.removeprefix(prefix)


@pytest.mark.parametrize("kind", ["caffe2", "detectron2", "mmdet"])
def test_backbones_with_group_norm(tmp_path, config, kind):
    config.backbone.norm, config.backbone.stem_channels = "group", 32
    named, stem = group_norm_names(kind, config)
    loaded = backbones.load(str(written(tmp_path, named)), variables(), config)
    assert len(jax.tree.leaves(loaded["params"]["backbone"])) == len(named)
    kernel = named[stem].transpose(2, 3, 1, 0)[:, :, ::-1]
    np.testing.assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], kernel)
    config.backbone.norm = "frozen_batch"
    with pytest.raises(ValueError, match="w.safetensors (was trained with group|does not fit)"):
        backbones.load(str(written(tmp_path, named)), variables(), config)


@pytest.mark.parametrize("family", [detectron1, detectron2, mmdetection])
def test_a_detector_is_no_backbone(tmp_path, config, family):
    preset = presets.mmdet_r50_fpn if family is mmdetection else presets.detectron2_r50_fpn
    path = written(tmp_path, state_of(family, reduced(preset(4), depth=50)))
    with pytest.raises(ValueError, match="holds a whole detector: give it as config.weights"):
        backbones.load(str(path), variables(), config)
