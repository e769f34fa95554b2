"""Configs of MMDetection: read as literals, mapped to our settings, or refused by line or key."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.settings import differences
from maskrcnn_jax.weights import files, mmdetection, mmdetection_config, model_metadata
from tests.weights.families import reduced, state_of

CODER = "type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0]"
EXTRACTOR = "type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32]"
# The text that MMDetection prints for ``mask-rcnn_r50_fpn_1x_coco``, shortened.
R50 = f"""
'''A config.'''
auto_scale_lr = dict(base_batch_size=16, enable=False)
backend_args = None
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=256, feat_channels=256,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict({CODER}, target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict({EXTRACTOR}, roi_layer=dict(
            type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, roi_feat_size=7,
            num_classes=80, bbox_coder=dict({CODER}, target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        mask_roi_extractor=dict({EXTRACTOR}, roi_layer=dict(
            type='RoIAlign', output_size=14, sampling_ratio=0)),
        mask_head=dict(
            type='FCNMaskHead', num_convs=4, in_channels=256, conv_out_channels=256,
            num_classes=80, loss_mask=dict(type='CrossEntropyLoss', use_mask=True))),
    train_cfg=dict(
        rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3),
                 sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5), pos_weight=-1),
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000)),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7),
                 min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100,
                  mask_thr_binary=0.5)))
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    {{'type': 'PackDetInputs'}},
]
"""


def read(tmp_path, text):
    (tmp_path / "config.py").write_text(text)
    return mmdetection_config.read(tmp_path / "config.py")


def replaced(*pairs):
    text = R50
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


CAFFE = (
    ("mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]", "std=[1.0, 1.0, 1.0], "
     "mean=[103.53, 116.28, 123.675]"),
    ("bgr_to_rgb=True", "bgr_to_rgb=False"),
)  # fmt: skip
FROZEN = (("requires_grad=True", "requires_grad=False"),)
GN = (
    ("type='BN', requires_grad=True", "type='GN', num_groups=32, requires_grad=True"),
    ("num_outs=5", "num_outs=5, norm_cfg=dict(type='GN', num_groups=32)"),
    ("'Shared2FCBBoxHead'", "'Shared4Conv1FCBBoxHead', conv_out_channels=256, "
     "norm_cfg=dict(type='GN', num_groups=32)"),
    ("num_convs=4", "num_convs=4, norm_cfg=dict(type='GN', num_groups=32)"),
)  # fmt: skip


HEAD = R50[R50.index("bbox_head=dict(") :].partition("bbox_head=")[2]
HEAD = HEAD[: HEAD.index("        mask_roi_extractor")].rstrip().rstrip(",")
RULE = (
    "dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr={0}, neg_iou_thr={0}, min_pos_iou={0}, "
    "match_low_quality=False), sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25))"
)


def cascade(stds=("0.1, 0.1, 0.2, 0.2", "0.05, 0.05, 0.1, 0.1", "0.033, 0.033, 0.067, 0.067")):
    """The changes that make the network a cascade."""
    head = HEAD.replace("reg_class_agnostic=False", "reg_class_agnostic=True")
    head = head.replace("'L1Loss'", "'SmoothL1Loss', beta=1.0")
    heads = [head.replace("0.1, 0.1, 0.2, 0.2", x) for x in stds]
    rules = [RULE.format(iou) for iou in (0.5, 0.6, 0.7)]
    weights = "num_stages=3, stage_loss_weights=[1, 0.5, 0.25]"
    smooth = "loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0"
    return (
        ("type='MaskRCNN'", "type='CascadeRCNN'"),
        ("'StandardRoIHead'", f"'CascadeRoIHead', {weights}"),
        (HEAD, f"[{', '.join(heads)}]"),
        ("loss_bbox=dict(type='L1Loss'", smooth.replace("1.0 / 9.0", str(1 / 9))),
        ("rpn_proposal=dict(nms_pre=2000, max_per_img=1000)", "rpn_proposal=dict(nms_pre=2000, "
         f"max_per_img=2000), rcnn=[{', '.join(rules)}]"),
    )  # fmt: skip


C4 = (
    ("num_stages=4, out_indices=(0, 1, 2, 3)", "num_stages=3, strides=(1, 2, 2), "
     "dilations=(1, 1, 1), out_indices=(2,)"),
    (R50[R50.index("    neck=") : R50.index("    rpn_head=")], ""),
    ("scales=[8]", "scales=[2, 4, 8, 16, 32]"),
    ("strides=[4, 8, 16, 32, 64]", "strides=[16]"),
    ("type='StandardRoIHead',", "type='StandardRoIHead', shared_head=dict(type='ResLayer', "
     "depth=50, stage=3, stride=2, dilation=1, style='caffe', norm_eval=True, "
     "norm_cfg=dict(type='BN', requires_grad=False)),"),
    ("output_size=7", "output_size=14"),
    ("'Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024", "'BBoxHead', "
     "with_avg_pool=True, in_channels=2048"),
    (R50[R50.index("mask_roi_extractor") : R50.index("        mask_head=")],
     "mask_roi_extractor=None,\n"),
    ("num_convs=4, in_channels=256", "num_convs=0, in_channels=2048"),
    ("rpn_proposal=dict(nms_pre=2000, max_per_img=1000)",
     f"rpn_proposal=dict(nms_pre=12000, max_per_img=2000), rcnn={RULE.format(0.5)}"),
    ("nms_pre=1000", "nms_pre=6000"),
)  # fmt: skip


@pytest.mark.parametrize(
    "changes, preset, order",
    [
        ((), presets.mmdet_r50_fpn, "RGB"),
        ((("depth=50", "depth=101"),), presets.mmdet_r101_fpn, "RGB"),
        ((*CAFFE, *FROZEN, ("'pytorch'", "'caffe'")), presets.mmdet_r50_caffe_fpn, "BGR"),
        ((*CAFFE, *GN), presets.mmdet_r50_fpn_gn, "BGR"),
        (cascade(), presets.mmdet_cascade_r50_fpn, "RGB"),
        (
            (*CAFFE, *FROZEN, ("'pytorch'", "'caffe'"), *C4),
            presets.mmdet_r50_caffe_c4,
            "BGR",
        ),
        (
            (("'ResNet', depth=50", "'ResNeXt', groups=32, base_width=4, depth=101"),),
            presets.mmdet_x101_32x4d_fpn,
            "RGB",
        ),
    ],
)
def test_the_configs_of_the_zoo_are_the_presets(tmp_path, changes, preset, order):
    found = read(tmp_path, replaced(*changes))
    schedule = "num_steps", "optimizer.decay_steps"  # Not read.
    different = [x for x in differences(preset(), found.config) if not x.startswith(schedule)]
    assert different == [] and found.channel_order == order


@pytest.mark.parametrize(
    "old, new, field, value",
    [
        ("type='MaskRCNN'", "type='FasterRCNN'", "model.mask_head", None),
        ("num_classes=80, bbox", "num_classes=7, bbox", "model.num_classes", 8),
        ("scales=[8]", "scales=[4]", "model.rpn.anchor_sizes", (16, 32, 64, 128, 256)),
        ("0.1, 0.1, 0.2, 0.2", "0.2, 0.2, 0.4, 0.4", "model.roi.box_weights", (5, 5, 2.5, 2.5)),
        ("output_size=7, ", "output_size=7, aligned=False, ", "model.roi.aligned", False),
        ("frozen_stages=1", "frozen_stages=-1", "model.backbone.frozen_stages", 0),
        ("score_thr=0.05", "score_thr=0.3", "detection.score_threshold", 0.3),
        ("nms_pre=1000", "nms_pre=500", "detection.num_candidates", 500),
        ("nms_pre=2000", "nms_pre=500", "model.rpn.num_candidates", 500),
        ("num=256", "num=64", "model.rpn.num_samples", 64),
        ("scale=(1333, 800)", "scale=(640, 900)", "data.test_short_side", 640),
    ],
)
def test_other_settings(tmp_path, old, new, field, value):
    found = read(tmp_path, replaced((old, new))).config
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    "old, new, key",
    [
        ("type='MaskRCNN'", "type='RetinaNet'", "model.type: RetinaNet"),
        ("type='ResNet'", "type='RegNet'", "model.backbone.type: RegNet"),
        ("depth=50", "depth=50, groups=32", "model.backbone.groups: 32 of a ResNet"),
        ("depth=50", "depth=50, dcn=dict(type='DCN')", "model.backbone.dcn.type: DCN"),
        ("'StandardRoIHead'", "'CascadeRoIHead'", "model.roi_head.type: CascadeRoIHead"),
        ("type='MaskRCNN'", "type='CascadeRCNN'", "its stages have another form"),
        ("scales=[8]", "scales=[8, 16]", "anchor_generator.scales.*only one is possible"),
        ("'Shared2FCBBoxHead'", "'DoubleConvFCBBoxHead'", "model.roi_head.bbox_head.type"),
        ("strides=[4, 8,", "strides=[2, 8,", "model.rpn_head.anchor_generator.strides"),
        ("num_outs=5", "num_outs=5, norm_cfg=dict(type='LN')", "model.neck.norm_cfg.type: LN"),
        ("keep_ratio=True", "keep_ratio=False", "only keep_ratio=True"),
        ("mask_thr_binary=0.5", "mask_thr_binary=0.4", "mask_thr_binary: 0.4"),
        ("type='nms', iou_threshold=0.5", "type='soft_nms', iou_threshold=0.5", "nms.type"),
        ("mean=[123.675, 116.28, 103.53], ", "", "data_preprocessor.mean"),
        ("std=[58.395,", "std=[0,", "model.image_std must be above 0"),
        ("scales=[8]", "scales=8", "has another form"),
        ("num_classes=80, bbox", "num_classes='80', bbox", "has another form"),
        ("depth=50", "depth=51", "model.backbone.depth must be one of"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_its_key(tmp_path, old, new, key):
    with pytest.raises(ValueError, match=rf"config.py cannot be read(.|\n)*{key}"):
        read(tmp_path, replaced((old, new)))


@pytest.mark.parametrize(
    "changes, key",
    [
        ((("train_cfg=dict(", "train_cfg=None, other=dict("),), "model.other"),
        ((("0.25]", "0.3]"),), "stage_loss_weights.*only 1 and equal ratios of 3 stages"),
        ((("fc_out_channels=1024", "fc_out_channels=64"),), "stage 1: fc_out_channels 1024, the"),
    ],
)
def test_stages_that_do_not_fit_are_refused_by_their_key(tmp_path, changes, key):
    text = replaced(*cascade())
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    with pytest.raises(ValueError, match=rf"config.py cannot be read(.|\n)*{key}"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("import os", "line 1 is a Import"),
        ("x = 1\n_base_ = 'a.py'\ny = __import__('os')", "line 3 is a Call"),
        ("x = open('marker', 'w')", "line 1 is a Call"),
        ("x = dict(a=open('marker', 'w'))", "line 1 is a Call"),
        ("x = dict(*[1])", "line 1 is a Call"),
        ("x = list(a=1)", "line 1 is a Call"),
        ("x = dict(**{'a': 1})", "line 1 is a Call"),
        ("x = [i for i in range(9)]", "line 1 is a ListComp"),
        ("x = 9 ** 9 ** 9", "line 1 is a BinOp"),
        ("x = f'{open}'", "line 1 is a JoinedStr"),
        ("x = y", "line 1 is a Name"),
        ("x = {y: 1}", "line 1 is a Dict"),
        ("x = -'a'", "line 1 is a UnaryOp"),
        ("x.y = 1", "line 1 is a Assign"),
        ("x = y = 1", "line 1 is a Assign"),
        ("x: int = 1", "line 1 is a AnnAssign"),
        ("del x", "line 1 is a Delete"),
        ("def f(): pass", "line 1 is a FunctionDef"),
        ("x = (", "line 1 is no Python"),
        ("x = '\\0" + "\0'", "no Python"),
        ("x = " + "[" * 5_000 + "]" * 5_000, "no Python|nested too deep"),
        ("x = 1", "it assigns no model"),
        ("model = 1", "it assigns no model"),
        ("model = dict()", "model.type: None"),
        ("x = '" + "x" * (1 << 20) + "'", "more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_nothing_but_literals_is_read_and_nothing_is_run(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"config.py cannot be read(.|\n)*({message})"):
        read(tmp_path, text)
    assert not (tmp_path / "marker").exists()


def test_convert_takes_the_config_beside_the_weights(tmp_path, capsys):
    state = state_of(mmdetection, reduced(presets.mmdet_r50_fpn(4)))
    files.write(tmp_path / "w.safetensors", state)
    (tmp_path / "config.py").write_text(replaced(*CAFFE, ("(1333, 800)", "(1333, 640)")))
    paths = [str(tmp_path / name) for name in ("w.safetensors", "w.npz", "config.py")]
    assert main(["convert", *paths[:2], "--mmdet-config", paths[2]]) == 0
    assert "BGR channels, as given" in capsys.readouterr().out
    arrays, metadata = files.read(paths[1])
    config, _ = model_metadata.decode(metadata)
    assert config.data.test_short_side == 640 and config.model.num_classes == 4
    np.testing.assert_allclose(config.model.image_std, [1 / 255] * 3)
    assert not config.model.backbone.stride_in_1x1
    kernel = state[mmdetection.STEM].transpose(2, 3, 1, 0)[:, :, ::-1]
    np.testing.assert_array_equal(arrays["params/backbone/conv1/kernel"], kernel)
