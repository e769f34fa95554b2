"""Recognition of weights: their family, their order of channels, and what else they carry."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.artifacts import artifact
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.weights import (
    detectron2,
    loading,
    mmdetection,
    model_metadata,
    own,
    reading,
    torchvision,
    torchvision_resnet,
)
from tests.weights import families, states

STEM = "backbone.bottom_up.stem.conv1.weight"


@pytest.mark.parametrize(
    "names, message",
    [
        (["conv1.weight", "fc.weight"], "conv1.weight, fc.weight"),
        (
            [
                e.name
                for e in torchvision_resnet.entries(ModelConfig(backbone=ResNetConfig(depth=18)))
            ],
            "ResNet-18 for classification",
        ),
        (["stem.conv1.weight"], "the backbone of a detector: give it as backbone_weights"),
        (["res2_0_branch2a_w"], "the backbone of a detector: give it as backbone_weights"),
        ([], "no array"),
    ],
)
def test_what_is_no_detector_is_refused(write, names, message):
    path = write({name: np.zeros(1, np.float32) for name in names})
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        loading.load(path)


def test_what_is_not_there_is_refused_with_what_would_do(tmp_path):
    with pytest.raises(
        FileNotFoundError, match='absent.pth; expected such a path or "COCO_V1" or "V2_COCO_V1"$'
    ):
        loading.load(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="COCO_V1; and torchvision released none"):
        loading.load("COCO_V1", ModelConfig(backbone=ResNetConfig(depth=101)))


def test_released_files_follow_the_architecture():
    assert reading.released_for(presets.maskrcnn_resnet50_fpn(5)) == {
        "COCO_V1": "maskrcnn_resnet50_fpn"
    }
    assert reading.released_for(presets.maskrcnn_resnet50_fpn_v2(5)) == {
        "COCO_V1": "maskrcnn_resnet50_fpn_v2"
    }
    faster = presets.fasterrcnn_resnet50_fpn(5)
    assert reading.released_for(faster) == {"COCO_V1": "fasterrcnn_resnet50_fpn"}
    assert reading.released_for(ModelConfig(backbone=ResNetConfig(depth=101))) == {}


@pytest.mark.parametrize(
    "name, released",
    [
        ("COCO_V1", True),
        ("V2_COCO_V1", True),
        ("detectron2:mask_rcnn_R_50_FPN_3x", True),
        ("hf://me/nuts", True),
        ("COCO_V2", False),
        ("runs/COCO_V1", False),
    ],
)
def test_released_names(name, released):
    assert reading.is_released(name) == released


def test_an_address_is_no_path():
    with pytest.raises(FileNotFoundError, match="a.pth is an address: download the weight file"):
        reading.read("https://host/a.pth")


# Faster to read than pickles while types are checked.
FAST = "weights.safetensors"


@pytest.fixture
def detectron2_file(write):
    config = families.reduced(presets.detectron2_r50_fpn(4))
    return write(families.state_of(detectron2, config), FAST)


def test_the_family_of_each_file(write, detectron2_file):
    assert reading.read(detectron2_file).layout is detectron2
    config = states.small(presets.maskrcnn_resnet50_fpn(3))
    for family, state in (
        (own, {"params/box_head/cls_score/bias": np.zeros(4)}),
        (torchvision, states.state_of(config)),
        (mmdetection, families.state_of(mmdetection, families.reduced(presets.mmdet_r50_fpn(4)))),
    ):
        found = reading.read(write(state, FAST))
        assert found.layout is family and found.path.name == FAST
        assert found.digest is not None and not found.is_config_carried


def test_a_stem_of_bgr_becomes_rgb(detectron2_file):
    as_rgb = reading.read(detectron2_file, channel_order="RGB")
    found = reading.read(detectron2_file)
    assert found.is_bgr and not as_rgb.is_bgr
    np.testing.assert_array_equal(found.arrays[STEM], as_rgb.arrays[STEM][:, ::-1])
    assert as_rgb.reasons[-1] == "RGB channels, as given"


def test_a_preset_replaces_what_is_guessed(detectron2_file):
    preset = presets.mmdet_r50_fpn(4)
    preset.model.rpn.nms_threshold = 0.625
    for given, words in (
        ("mmdet_r50_fpn", "presets.mmdet_r50_fpn"),
        (preset, "the given settings"),
    ):
        found = reading.read(detectron2_file, preset=given)
        assert found.config.model.limit_shrinking and not found.is_bgr
        assert found.reasons == (f"RGB pixels and all rules of {words}",)
    assert found.config.model.rpn.nms_threshold == 0.625
    with pytest.raises(ValueError, match="preset must be one of .*; got 'detectron2_r18'"):
        reading.read(found.path, preset="detectron2_r18")
    with pytest.raises(ValueError, match="channel_order must be .*, got 'GBR'"):
        reading.read(found.path, channel_order="GBR")


def test_rules_of_other_libraries_are_not_for_our_files(write):
    path = write(states.state_of(states.small(presets.maskrcnn_resnet50_fpn(3))), FAST)
    for options in ({"preset": "detectron2_r50_fpn"}, {"channel_order": "BGR"}):
        with pytest.raises(ValueError, match="has torchvision's names: preset and channel_order"):
            reading.read(path, **options)


def test_what_a_file_carries_is_not_guessed(write):
    config = states.small(presets.maskrcnn_resnet50_fpn(3))
    config.rpn.nms_threshold = 0.625
    categories = Categories((3, 9), ("cat", "dog"))
    metadata = model_metadata.encode(Config(model=config), categories)
    found = reading.read(write(states.state_of(config), FAST, metadata))
    assert found.is_config_carried and found.config.model == config
    assert found.categories == categories and found.reasons == ()


def test_counters_and_settings_are_kept_beside_the_arrays(write):
    state = families.state_of(
        detectron2, families.reduced(presets.detectron2_r50_fpn(4)), counters="backbone"
    )
    state[detectron2.PIXELS[0]] = np.zeros((3, 1, 1), np.float32)
    extras = reading.read(write(state, FAST)).extras
    assert detectron2.PIXELS[0] in extras and len(extras) > 10
    assert all(name.endswith("num_batches_tracked") for name in extras.keys() - detectron2.PIXELS)


def test_an_exported_artifact_goes_another_way(write):
    path = write({"x": np.zeros(1)}, "a.npz", {artifact.KEY: "{}"})
    with pytest.raises(ValueError, match="a.npz cannot be loaded: it is an exported artifact"):
        reading.read(path)
