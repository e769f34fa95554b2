"""The keys and lines of code of other libraries that set a rule of ours."""

import numpy as np
import pytest
import yaml

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.weights import (
    detectron2_config,
    detectron2_keys,
    differences,
    peer_settings,
)


def other_config():
    """A config that differs from Detectron2's in every rule that can be set there."""
    config = presets.detectron2_r50_fpn(5)
    model, detection = config.model, config.detection
    presets.use_torchvision_input(model)
    model.backbone.depth, model.fpn.norm = 101, "group"
    model.rpn.num_convs, model.rpn.anchor_sizes = 2, (16.0, 32.0, 64.0, 128.0, 256.0)
    model.rpn.aspect_ratios, model.rpn.box_weights = (0.4, 1.0), (2.0, 2.0, 1.0, 1.0)
    model.rpn.nms_threshold, model.rpn.min_box_size = 0.6, 1.0
    model.roi.aligned, model.roi.sampling_ratio = False, 2
    model.roi.box_weights = (5.0, 5.0, 2.0, 2.0)
    model.box_head.num_convs, model.box_head.norm, model.box_head.num_layers = 4, "group", 1
    model.box_head.features, model.box_head.channels, model.mask_head.channels = 512, 128, 64
    model.mask_head.num_convs, model.mask_head.norm = 2, "group"
    model.box_head.classifier = "sigmoid"
    detection.num_candidates, detection.num_proposals, detection.num_detections = 500, 400, 50
    detection.score_threshold, detection.nms_threshold = 0.1, 0.4
    config.data.test_short_side, config.data.test_max_long_side = 600, 1000
    return config


def test_detectron2s_keys_set_what_they_say(tmp_path):
    config = other_config()
    _, found = differences.find(config, "detectron2", is_bgr=False)
    assert len(found) > 25 and all(each.setting for each in found)
    keys = {"_BASE_": "base.yaml"}
    for each in found:
        # "A.B: 1, C: 2" and "A.B, A.C: 1" set two keys.
        names, _, value = each.setting.partition(": ")
        if "RES2_OUT" in value:
            names, value = "MODEL.RESNETS.DEPTH", value.partition(",")[0]
        for name in names.split(", "):
            keys[name] = yaml.safe_load(value)
    base = {"MODEL.META_ARCHITECTURE": "GeneralizedRCNN", "MODEL.MASK_ON": True}
    fixed = {x: y for x, y in detectron2_keys.FIXED.items() if not isinstance(y, tuple)}
    fixed |= {x: list(y) for x, y in detectron2_keys.FIXED.items() if isinstance(y, tuple)}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base | fixed))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(keys))
    read, order = detectron2_config.read(tmp_path / "config.yaml")
    assert order == "RGB"
    for each in found:
        if each.rule != peer_settings.ORDER:
            value = peer_settings.value_of(read, each.rule)
            if isinstance(value, str):
                assert value == each.here, each.rule
            else:
                np.testing.assert_allclose(value, each.here, rtol=1e-5, err_msg=each.rule)


PARTS_WITH_ARRAYS = ("backbone", "fpn", "box_head", "mask_head", "num_classes")


@pytest.mark.parametrize("target", differences.SETTINGS)
def test_every_arrays_shape_can_be_set_everywhere(target):
    """Otherwise a file would be written that no config of the library loads."""
    config = other_config()
    config.model.mask_head.resolution, config.model.box_head.resolution = 10, 5
    for field in differences.FIELDS:
        part = field.split(".")[1]
        # An eps is folded into the variances for Detectron2, which alone has DC5 networks here.
        # torchvision has one stem, and MMDetection one classifier.
        is_refused = (target, field) in (
            ("torchvision", "model.backbone.stem_channels"),
            ("torchvision", "model.backbone.c5_dilation"),
            ("mmdet", "model.backbone.c5_dilation"),
            ("mmdet", "model.box_head.classifier"),
        )
        is_refused |= field == "model.fpn.top_down"  # It belongs to the backbone.
        is_folded = target == "detectron2" and field.endswith("norm_eps")
        is_skipped = is_refused or is_folded or not differences._is_used(config, field)
        if part in PARTS_WITH_ARRAYS and not is_skipped:
            assert differences.SETTINGS[target](field, config, False), field


def set_in(library, field, is_bgr=False, **changes):
    """The setting of a library for a field of the default config, after changes of the model."""
    config = Config()
    for name, value in changes.items():
        owner, _, attribute = name.rpartition("__")
        set_on = peer_settings.value_of(config, f"model.{owner}".rstrip("."))
        setattr(set_on, attribute, value)
    return getattr(peer_settings, library)(field, config, is_bgr)


@pytest.mark.parametrize(
    "library, field, changes, expected",
    [
        (
            "torchvision",
            "model.rpn.nms_threshold",
            {"rpn__nms_threshold": 0.6},
            "rpn_nms_thresh=0.6",
        ),
        (
            "torchvision",
            "model.roi.box_weights",
            {"roi__box_weights": (5.0, 5.0, 2.0, 2.0)},
            "bbox_reg_weights=[5.0, 5.0, 2.0, 2.0]",
        ),
        (
            "torchvision",
            "model.backbone.groups",
            {"backbone__groups": 32, "backbone__width_per_group": 4, "backbone__norm": "batch"},
            "backbone=resnet_fpn_backbone(backbone_name='resnext50_32x4d', weights=None, "
            "norm_layer=BatchNorm2d)",
        ),
        (
            "torchvision",
            "model.rpn.num_convs",
            {"rpn__num_convs": 2},
            "rpn_head=RPNHead(256, 3, conv_depth=2)",
        ),
        ("torchvision", "model.roi.level_rule", {}, None),
        ("detectron2", "model.num_classes", {"num_classes": 5}, "MODEL.ROI_HEADS.NUM_CLASSES: 4"),
        (
            "detectron2",
            "model.rpn.num_convs",
            {"rpn__num_convs": 2},
            "MODEL.RPN.CONV_DIMS: [-1, -1]",
        ),
        (
            "detectron2",
            "model.roi.aligned",
            {"roi__aligned": True},
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE, MODEL.ROI_MASK_HEAD.POOLER_TYPE: ROIAlignV2",
        ),
        (
            "detectron2",
            "model.roi.pooling",
            {"roi__pooling": "pool"},
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE, MODEL.ROI_MASK_HEAD.POOLER_TYPE: ROIPool",
        ),
        (
            "detectron2",
            "model.backbone.norm",
            {"backbone__norm": "batch"},
            'MODEL.RESNETS.NORM: "BN"',
        ),
        ("detectron2", peer_settings.MASKS, {"mask_head": None}, "MODEL.MASK_ON: False"),
        ("detectron2", "detection.paste", {}, None),
        (
            "mmdet",
            "model.backbone.stride_in_1x1",
            {"backbone__stride_in_1x1": True},
            "backbone.style='caffe'",
        ),
        (
            "mmdet",
            "model.roi.box_weights",
            {"roi__box_weights": (10.0, 10.0, 5.0, 5.0)},
            "roi_head.bbox_head.bbox_coder.target_stds=[0.1, 0.1, 0.2, 0.2]",
        ),
        (
            "mmdet",
            "model.fpn.norm",
            {"fpn__norm": "group"},
            "neck.norm_cfg=dict(type='GN', num_groups=32, eps=1e-05)",
        ),
        (
            "mmdet",
            "model.backbone.norm",
            {},
            "backbone.norm_cfg=dict(type='BN', requires_grad=False, eps=1e-05)",
        ),
        ("mmdet", peer_settings.MASKS, {"mask_head": None}, "type='FasterRCNN'"),
        (
            "mmdet",
            "model.num_classes",
            {"mask_head": None, "num_classes": 5},
            "roi_head.bbox_head.num_classes=4",
        ),
    ],
)
def test_a_rule_is_set_by(library, field, changes, expected):
    assert set_in(library, field, **changes) == expected


def test_pixels_stand_in_the_order_of_the_file():
    changes = {"image_mean": (0.1, 0.2, 0.3)}
    for is_bgr, expected in ((False, "[25.5, 51.0, 76.5]"), (True, "[76.5, 51.0, 25.5]")):
        found = set_in("detectron2", "model.image_mean", is_bgr, **changes)
        assert found == f"MODEL.PIXEL_MEAN: {expected}"
        found = set_in("mmdet", "model.image_mean", is_bgr, **changes)
        assert found == f"data_preprocessor.mean={expected}"
    assert set_in("detectron2", peer_settings.ORDER, True) == "INPUT.FORMAT: BGR"
    assert set_in("mmdet", peer_settings.ORDER, True) == "data_preprocessor.bgr_to_rgb=False"


def test_vitdet_has_fields_instead_of_keys():
    config = presets.detectron2_vitdet_b(4)
    for field, expected in (
        ("model.backbone.width", "model.backbone.net.embed_dim=768"),
        ("model.backbone.global_blocks", "window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10]"),
        ("model.num_classes", "model.roi_heads.num_classes=3"),
        ("model.mask_head.num_convs", "mask_head.conv_dims=[256, 256, 256, 256, 256]"),
    ):
        assert peer_settings.detectron2(field, config, True).endswith(expected)


def test_a_path_that_leads_nowhere_is_none():
    config = Config()
    config.model.mask_head = None
    assert peer_settings.value_of(config, "model.mask_head.channels") is None
    assert peer_settings.value_of(config, "model.rpn.num_convs") == config.model.rpn.num_convs
