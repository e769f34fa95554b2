"""The networks of torchvision's functions; tests/weights compares their parameters with its."""

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.config_check import check
from maskrcnn_jax.model_config import ConvNeXtConfig


@pytest.mark.parametrize("name", presets.PRESETS)
def test_they_have_the_names_of_its_functions(name):
    model = presets.PRESETS[name]()
    check(Config(model=model))
    assert model.num_classes == 91 and presets.PRESETS[name](5).num_classes == 5
    assert (model.mask_head is None) == name.startswith("fasterrcnn")
    assert (model.backbone.norm, model.rpn.num_convs, model.box_head.num_convs) == (
        ("batch", 2, 4) if name.endswith("v2") else ("frozen_batch", 1, 0)
    )


def test_the_norm_of_the_first_versions_may_be_chosen():
    for build in (presets.maskrcnn_resnet50_fpn, presets.fasterrcnn_resnet50_fpn):
        assert build(4, norm="group").backbone.norm == "group"


def test_a_backbone_of_torchvisions_without_a_function():
    model = presets.maskrcnn_convnext_tiny_fpn(4)
    assert isinstance(model.backbone, ConvNeXtConfig) and model.num_classes == 4
    assert "maskrcnn_convnext_tiny_fpn" not in presets.PRESETS
