"""Configs of Detectron2: mapped to our settings, or refused with all that has no counterpart."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.settings import differences
from maskrcnn_jax.weights import (
    detectron2,
    detectron2_config,
    detectron2_keys,
    files,
    model_metadata,
)
from tests.weights.families import reduced, state_of

# The keys that ``mask_rcnn_R_50_FPN_3x.yaml`` and its base set, and their values.
R50 = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
  MASK_ON: True
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {DEPTH: 50, OUT_FEATURES: ["res2", "res3", "res4", "res5"]}
  FPN: {IN_FEATURES: ["res2", "res3", "res4", "res5"]}
  ANCHOR_GENERATOR:
    SIZES: [[32], [64], [128], [256], [512]]
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]
  RPN:
    IN_FEATURES: ["p2", "p3", "p4", "p5", "p6"]
    PRE_NMS_TOPK_TRAIN: 2000
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TRAIN: 1000
    POST_NMS_TOPK_TEST: 1000
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: ["p2", "p3", "p4", "p5"]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}
DATASETS:
  TRAIN: ("coco_2017_train",)
SOLVER: {STEPS: (210000, 250000), MAX_ITER: 270000}
INPUT:
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
VERSION: 2
"""


def doubled(first, rest):
    """YAML whose values have the value before them several times, by aliases."""
    lines = [f"v0: &v0 {first}"]
    lines += [f"v{i}: &v{i} {rest.format(f'v{i - 1}')}" for i in range(1, 25)]
    return "\n".join(lines)


def read(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    return detectron2_config.read(tmp_path / "config.yaml")


def test_the_config_of_the_model_zoo_is_the_preset(tmp_path):
    found = read(tmp_path, R50)
    assert differences(presets.detectron2_r50_fpn(), found.config) == []
    assert found.channel_order == "BGR"


# The keys that ``mask_rcnn_R_50_C4_3x.yaml`` and its base set, and their values.
C4 = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: True
  RESNETS: {DEPTH: 50}
  RPN: {PRE_NMS_TOPK_TEST: 6000, POST_NMS_TOPK_TEST: 1000}
  ROI_HEADS: {NAME: Res5ROIHeads}
INPUT:
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
"""
# The keys that ``mask_rcnn_R_50_DC5_3x.yaml`` and its base set, and their values.
DC5 = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: True
  RESNETS: {DEPTH: 50, OUT_FEATURES: ["res5"], RES5_DILATION: 2}
  RPN: {IN_FEATURES: ["res5"], PRE_NMS_TOPK_TEST: 6000, POST_NMS_TOPK_TEST: 1000}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: ["res5"]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}
INPUT:
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
"""


def test_networks_without_a_pyramid_are_the_presets(tmp_path):
    assert differences(presets.detectron2_r50_c4(), read(tmp_path, C4).config) == []
    assert differences(presets.detectron2_r50_dc5(), read(tmp_path, DC5).config) == []
    without_masks = read(tmp_path, DC5.replace("MASK_ON: True", "MASK_ON: False")).config
    assert without_masks.model.mask_head is None and without_masks.model.levels == (4,)


SIZES = "ANCHOR_GENERATOR: {SIZES: [[32], [64]]}"


@pytest.mark.parametrize(
    "text, old, new, message",
    [
        (C4, "NAME: Res5ROIHeads", "IN_FEATURES: [res5]", "ROI_HEADS.IN_FEATURES"),
        (C4, "MASK_ON:", "ROI_BOX_HEAD: {POOLER_RESOLUTION: x}\n  MASK_ON:", "of type int"),
        (C4, "MASK_ON:", "ANCHOR_GENERATOR: {SIZES: [[]]}\n  MASK_ON:", "expected one list"),
        (C4, "DEPTH: 50", "DEPTH: 50, RES5_DILATION: 2", "model.backbone.c5_dilation must be 1"),
        (DC5, "StandardROIHeads", "PointRendROIHeads", "only StandardROIHeads is possible"),
        (DC5, "  RPN: {", f"  {SIZES}\n  RPN: {{", "expected one list"),
        (DC5, "RPN: {", "RPN: {CONV_DIMS: [256], ", "RPN.CONV_DIMS.*only .-1. are possible"),
    ],
)
def test_impossible_networks_without_a_pyramid_are_told_by_key(tmp_path, text, old, new, message):
    with pytest.raises(ValueError, match=rf"config.yaml cannot be read(.|\n)*{message}"):
        read(tmp_path, text.replace(old, new))


CASCADE = {
    "ROI_HEADS: {NAME: StandardROIHeads,": "ROI_HEADS: {NAME: CascadeROIHeads,",
    "POST_NMS_TOPK_TRAIN: 1000": "POST_NMS_TOPK_TRAIN: 2000",
    "NUM_FC: 2,": "NUM_FC: 2, CLS_AGNOSTIC_BBOX_REG: True,",
}


def cascade(more=""):
    text = R50.replace("  ROI_MASK_HEAD:", f"{more}  ROI_MASK_HEAD:")
    for old, new in CASCADE.items():
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_cascade_is_read_with_the_rules_of_its_stages(tmp_path):
    found = read(tmp_path, cascade())
    assert differences(presets.detectron2_cascade_r50_fpn(), found.config) == []
    rules = "IOUS: [0.5, 0.55], BBOX_REG_WEIGHTS: [[1., 2., 3., 4.], [5., 6., 7., 8.]]"
    model = read(tmp_path, cascade(f"  ROI_BOX_CASCADE_HEAD: {{{rules}}}\n")).config.model
    assert model.roi.box_weights == (1, 2, 3, 4) and model.cascade.box_weights == ((5, 6, 7, 8),)
    assert model.cascade.positive_ious == (0.55,)


@pytest.mark.parametrize(
    "rules, message",
    [
        ("IOUS: [0.5, 0.6]", "IOUS, BBOX_REG_WEIGHTS.*expected a pair each"),
        ("IOUS: [0.4, 0.6, 0.7]", "MODEL.ROI_HEADS has 0.5"),
    ],
)
def test_impossible_rules_of_stages_are_named(tmp_path, rules, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, cascade(f"  ROI_BOX_CASCADE_HEAD: {{{rules}}}\n"))


def test_every_key_that_is_read_is_set(tmp_path):
    base = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.MASK_ON": True}
    values = base | {key: detectron2_keys.FIXED[key] for key in detectron2_keys.FIXED}
    values["MODEL.ANCHOR_GENERATOR.SIZES"] = ((32,), (64,), (128,), (256,), (512,))
    plain = detectron2_config._convert(values).config
    for key, (default, field) in detectron2_keys.FIELDS.items():
        if key == "MODEL.RESNETS.RES5_DILATION":  # Only of networks without a pyramid.
            continue
        other = (
            tuple(x + 1 for x in default)
            if isinstance(default, tuple)
            else not default
            if isinstance(default, bool)
            else 0.125
            if isinstance(default, float)
            else "giou"
            if default == "smooth_l1"
            else {50: 101, 2: 3, 0: 1, 64: 128}.get(default, default + 1)
        )
        given = values | {key: other}
        if key == "MODEL.RESNETS.STEM_OUT_CHANNELS":  # Ours scales the groups with the stem.
            given["MODEL.RESNETS.WIDTH_PER_GROUP"] = other
        changed = detectron2_config._convert(given).config
        (difference,) = differences(plain, changed)
        assert difference.startswith(f"{field}: "), key
        assert difference.endswith((f" -> {other}", f" -> {other}.0")), key


def test_rgb_pixels_stay_in_their_order(tmp_path):
    text = R50.replace("MODEL:\n", "MODEL:\n  PIXEL_MEAN: [1, 2, 3]\n  PIXEL_STD: [4, 5, 6]\n")
    bgr = read(tmp_path, text).config.model
    np.testing.assert_allclose(np.multiply(bgr.image_mean, 255), [3, 2, 1])
    found = read(tmp_path, text.replace("INPUT:\n", "INPUT:\n  FORMAT: RGB\n"))
    np.testing.assert_allclose(np.multiply(found.config.model.image_std, 255), [4, 5, 6])
    assert found.channel_order == "RGB"


@pytest.mark.parametrize(
    "old, new, field, value",
    [
        ("DEPTH: 50", "DEPTH: 101, NORM: GN", "backbone.norm", "group"),
        ("DEPTH: 50", "DEPTH: 101, NUM_GROUPS: 32, WIDTH_PER_GROUP: 8", "backbone.width", 2**8),
        ("NUM_FC: 2", "NUM_FC: 1, NORM: SyncBN, NUM_CONV: 4", "box_head.norm", "batch"),
        ("NUM_FC: 2", "NUM_FC: 2, POOLER_TYPE: ROIPool", "roi.pooling", "pool"),
        ("NUM_FC: 2", "NUM_FC: 2, POOLER_TYPE: ROIAlign", "roi.aligned", False),
        ("  RPN:\n", "  RPN:\n    CONV_DIMS: [-1, -1]\n", "rpn.num_convs", 2),
        ("NUM_FC: 2", "NUM_FC: 2, BBOX_REG_LOSS_TYPE: giou", "roi.box_loss", "giou"),
        ("  RPN:\n", "  RPN:\n    IOU_THRESHOLDS: [0.2, 0.6]\n", "rpn.negative_iou", 0.2),
        ("  ROI_HEADS: {", "  ROI_HEADS: {NUM_CLASSES: 7, ", "num_classes", 8),
        ("MASK_ON: True", "MASK_ON: False", "mask_head", None),
        ("NUM_FC: 2", "NUM_FC: 2, USE_SIGMOID_CE: True", "box_head.classifier", "sigmoid"),
        ("NUM_FC: 2", "NUM_FC: 2, USE_SIGMOID_CE: True", "box_head.federated_classes", None),
        (
            "NUM_FC: 2",
            "NUM_FC: 2, USE_SIGMOID_CE: True, USE_FED_LOSS: True, FED_LOSS_NUM_CLASSES: 20",
            "box_head.federated_classes",
            20,
        ),
        ("NUM_FC: 2", "NUM_FC: 2, FED_LOSS_FREQ_WEIGHT_POWER: 1", "box_head.federated_power", 1),
    ],
)
def test_other_networks(tmp_path, old, new, field, value):
    found = read(tmp_path, R50.replace(old, new)).config.model
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    "old, new, key",
    [
        ("build_resnet_fpn_backbone", "build_regnet", "MODEL.BACKBONE.NAME"),
        ("BACKBONE: {NAME: build_resnet_fpn_backbone}", "KEYPOINT_ON: 1", "MODEL.BACKBONE.NAME"),
        ("StandardROIHeads", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"),
        ("DEPTH: 50", "DEPTH: 50, WIDTH_PER_GROUP: wide", "MODEL.RESNETS.WIDTH_PER_GROUP: wide"),
        ("DEPTH: 50", "DEPTH: 50, STEM_OUT_CHANNELS: 65", "WIDTH_PER_GROUP: 64, with 65"),
        ("DEPTH: 50", "DEPTH: 50, NORM: LN", "MODEL.RESNETS.NORM: LN"),
        ("DEPTH: 50", "DEPTH: 50, DEPTHS: 3", "MODEL.RESNETS.DEPTHS: 3 has no counterpart"),
        ("NUM_FC: 2", "NUM_FC: 2, BBOX_REG_LOSS_TYPE: diou", "model.roi.box_loss must be one of"),
        ("NUM_FC: 2", "NUM_FC: 2, USE_FED_LOSS: True", "USE_FED_LOSS: True needs .*SIGMOID_CE"),
        (
            "NUM_FC: 2",
            "NUM_FC: 2, USE_FED_LOSS: True, USE_SIGMOID_CE: True, FED_LOSS_NUM_CLASSES: x",
            "model.box_head.federated_classes must be of type",
        ),
        ("NUM_FC: 2", "NUM_FC: 2, POOLER_TYPE: ROIAlignRotated", "POOLER_TYPE"),
        ("NUM_CONV: 4", "NUM_CONV: 4, POOLER_SAMPLING_RATIO: 2", "MASK_HEAD.POOLER_SAMPLING_RATIO"),
        ("[[32], [64],", "[[32, 64],", "ANCHOR_GENERATOR.SIZES"),
        ("  RPN:\n", "  RPN:\n    CONV_DIMS: [64]\n", "RPN.CONV_DIMS"),
        ("  RPN:\n", "  RPN:\n    IOU_THRESHOLDS: 0.5\n", "RPN.IOU_THRESHOLDS"),
        ("INPUT:\n", "INPUT:\n  FORMAT: YUV-BT.601\n", "INPUT.FORMAT"),
        ("INPUT:\n", "INPUT:\n  RANDOM_FLIP: both\n", "INPUT.RANDOM_FLIP"),
        ("MODEL:\n", "MODEL:\n  PIXEL_STD: [1, 2]\n", "MODEL.PIXEL_STD"),
        ("MODEL:\n", "MODEL:\n  PIXEL_STD: [0, 1, 2]\n", "model.image_std must be above 0"),
        ("  ROI_HEADS: {", "  ROI_HEADS: {NUM_CLASSES: many, ", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("DEPTH: 50", "DEPTH: 51", "model.backbone.depth must be one of"),
        ("DEPTH: 50", "DEPTH: fifty", "model.backbone.depth must be of type"),
        ("VERSION: 2", "TEST: {AUG: {ENABLED: True}}", "TEST.AUG.ENABLED"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_its_key(tmp_path, old, new, key):
    with pytest.raises(ValueError, match=rf"config.yaml cannot be read(.|\n)*{key}"):
        read(tmp_path, R50.replace(old, new))


def test_everything_without_a_counterpart_is_in_one_error(tmp_path):
    text = R50.replace("StandardROIHeads", "X").replace("DEPTH: 50", "DEPTH: 50, NORM: LN, A: 1")
    with pytest.raises(ValueError) as error:
        read(tmp_path, text)
    for key in ("ROI_HEADS.NAME: X", "RESNETS.NORM: LN", "RESNETS.A: 1"):
        assert key in str(error.value)
    assert str(error.value).count("\n") == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: !!python/object/apply:os.system ['touch marker']", "no plain YAML"),
        ("a: [", "no plain YAML"),
        ("- 1", "no table of keys"),
        ("", "no table of keys"),
        ("model: {_target_: detectron2.modeling.GeneralizedRCNN}", "LazyConfig"),
        ("MODEL: {A: [{B: 1}]}", "list of tables"),
        ("x: &a {" + ", ".join(f"k{i}: 1" for i in range(101)) + "}\n"
         + "".join(f"y{i}: *a\n" for i in range(100)), "more than 10000 keys"),
        ("a: " * 0 + "{a: " * 20 + "1" + "}" * 20, "nested more than ten deep"),
        (doubled("[x, x]", "[*{0}, *{0}]"), "more than 10000 members|nested too deep"),
        (doubled("[x, x]", "[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}]"), "more than 10000 members"),
        (doubled("{}", "{{b: *{0}, c: *{0}, d: *{0}, e: *{0}}}"), "more than 10000 keys"),
        ("a: &a [*a]", "nested too deep"),
        ("[" * 500, "no plain YAML|no table"),
        ("_BASE_: ../other.yaml", "is not in its folder"),
        ("_BASE_: /etc/hostname", "is not in its folder"),
        ("_BASE_: config.yaml", "or the 6th"),
        ("a: " + "x" * (1 << 20), "more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_hostile_and_broken_files_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"config.yaml cannot be read.*({message})"):
        read(tmp_path, text)
    assert not (tmp_path / "marker").exists()


def test_a_base_in_the_folder_is_read_first(tmp_path):
    (tmp_path / "base.yaml").write_text(R50)
    found = read(tmp_path, "_BASE_: base.yaml\nMODEL:\n  RESNETS:\n    DEPTH: 101\n")
    assert found.config.model.backbone.depth == 101
    assert found.config.model.box_head.resolution == 7
    with pytest.raises(FileNotFoundError):
        read(tmp_path, "_BASE_: absent.yaml")


def test_convert_takes_the_config_beside_the_weights(tmp_path, capsys):
    config = reduced(presets.detectron2_r50_fpn(4))
    state = state_of(detectron2, config)
    files.write(tmp_path / "w.safetensors", state)
    text = R50.replace("MODEL:\n", "MODEL:\n  PIXEL_STD: [57, 58, 59]\n")
    text = text.replace("INPUT:\n", "INPUT:\n  FORMAT: RGB\n  MIN_SIZE_TEST: 640\n")
    (tmp_path / "config.yaml").write_text(text.replace("DEPTH: 50", "STRIDE_IN_1X1: False"))
    paths = [str(tmp_path / name) for name in ("w.safetensors", "w.npz", "config.yaml")]
    assert main(["convert", *paths[:2], "--d2-config", paths[2]]) == 0
    assert "RGB channels, as given" in capsys.readouterr().out
    arrays, metadata = files.read(paths[1])
    again, _ = model_metadata.decode(metadata)
    assert again.data.test_short_side == 640 and again.model.num_classes == 4
    np.testing.assert_allclose(np.multiply(again.model.image_std, 255), [57, 58, 59])
    assert not again.model.backbone.stride_in_1x1
    kernel = arrays["params/backbone/conv1/kernel"]
    np.testing.assert_array_equal(kernel, state[detectron2.STEM].transpose(2, 3, 1, 0))
    (tmp_path / "config.yaml").write_text("MODEL: {X: 1}")
    assert main(["convert", *paths[:2], "--force", "--d2-config", paths[2]]) == 2
    assert "MODEL.X: 1 has no counterpart" in capsys.readouterr().err


def test_convert_takes_a_preset(tmp_path, capsys):
    state = state_of(detectron2, reduced(presets.detectron2_r50_fpn(4)))
    files.write(tmp_path / "w.safetensors", state)
    paths = [str(tmp_path / name) for name in ("w.safetensors", "w.npz")]
    assert main(["convert", *paths, "--preset", "mmdet_r50_fpn"]) == 0
    assert "RGB pixels and all rules of presets.mmdet_r50_fpn" in capsys.readouterr().out
    again, _ = model_metadata.decode(files.read(paths[1]).metadata)
    assert again.data.size_rule == "mmdetection" and again.model.num_classes == 4
    assert again.model.box_head.features == 16
    assert main(["convert", *paths, "--force", "--preset", "mmdet_r50"]) == 2
    assert "preset must be one of detectron2_r50_fpn" in capsys.readouterr().err
