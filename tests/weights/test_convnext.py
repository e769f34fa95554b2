"""ConvNeXts of torchvision: classifiers, detectors, and files of another kind."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig
from maskrcnn_jax.weights import (
    backbones,
    convnext,
    detectron1,
    detectron2,
    files,
    layout,
    loading,
    mmdetection,
    torchvision,
    translation,
)

NARROW = ConvNeXtConfig(depths=(1, 2, 1, 1), width=8)


def model():
    config = presets.maskrcnn_convnext_tiny_fpn(4)
    config.backbone = NARROW
    config.fpn.channels, config.box_head.features, config.mask_head.channels = 8, 16, 12
    return config


def drawn(table):
    random = np.random.default_rng(0)
    return {x.name: random.normal(size=x.shape).astype(np.float32) for x in table}


def classifier():
    state = {convnext.FEATURES + x: y for x, y in drawn(convnext.entries(model())).items()}
    return state | {"classifier.0.weight": np.ones(64), "classifier.2.weight": np.ones((10, 64))}


def test_names_and_shapes_are_torchvisions():
    shapes = layout.shapes(convnext.entries(presets.maskrcnn_convnext_tiny_fpn(), "features."))
    expected = {
        "features.0.0.weight": (96, 3, 4, 4),
        "features.0.1.bias": (96,),
        "features.1.0.layer_scale": (96, 1, 1),
        "features.1.0.block.0.weight": (96, 1, 7, 7),
        "features.2.0.weight": (96,),
        "features.2.1.weight": (192, 96, 2, 2),
        "features.5.8.block.3.weight": (1536, 384),
        "features.7.2.block.5.bias": (768,),
    }
    assert len(shapes) == 178
    assert {name: shapes[name] for name in expected} == expected


def test_a_classifier_starts_a_training(tmp_path):
    config, state = model(), classifier()
    files.write(tmp_path / "w.pth", state)
    kept = {"params": {"backbone": {}, "fpn": {"kept": np.ones(1)}}}
    loaded = backbones.load(str(tmp_path / "w.pth"), kept, config)["params"]
    block = loaded["backbone"]["stage3_1"]
    kernel = state["features.3.1.block.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(block["conv"]["kernel"], kernel)
    np.testing.assert_array_equal(block["scale"], state["features.3.1.layer_scale"][:, 0, 0])
    assert loaded["fpn"]["kept"] == 1


def test_a_detector_comes_in_and_goes_out(tmp_path):
    config, path = model(), tmp_path / "w.safetensors"
    state = drawn(torchvision.entries(config))
    files.write(path, state)
    loaded = loading.load(path)
    assert loaded.config.model == config
    translation.write(tmp_path / "out.pth", translation.translate(loaded, "torchvision"))
    back = files.read(tmp_path / "out.pth").arrays
    assert back.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    with pytest.raises(ValueError, match="detectron2 has no network with torchvision's ConvNeXt"):
        translation.translate(loaded, "detectron2")


@pytest.mark.parametrize("family", [detectron1, detectron2, mmdetection])
def test_no_other_library_has_such_a_model(family):
    with pytest.raises(ValueError, match="has no model with|with a ResNet only"):
        list(family.entries(model()))


def test_another_backbone_is_named_with_the_config_that_fits(tmp_path):
    path = tmp_path / "w.safetensors"
    files.write(path, classifier())
    fits = r"ConvNeXtConfig\(depths=\(1, 2, 1, 1\), width=8\) fits it"
    for ours, name in ((ModelConfig(), "resnet50"), (presets.maskrcnn_convnext_tiny_fpn(), "conv")):
        with pytest.raises(ValueError, match=f"w.safetensors holds convnext.* is {name}.*: {fits}"):
            backbones.load(str(path), {}, ours)
    files.write(path, {"layer1.0.conv1.weight": np.ones((4, 4, 3, 3))})
    with pytest.raises(ValueError, match="w.safetensors holds no ConvNeXt, .* is convnext of 8"):
        backbones.load(str(path), {}, model())
