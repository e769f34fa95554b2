"""The rules in which a model differs from a config of another library."""

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config, DetectionConfig
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig, ViTConfig
from maskrcnn_jax.settings import to_dict
from maskrcnn_jax.weights import differences, peer_settings

# Fields that only training reads, or that do not change what is detected.
TRAINING = {
    *("positive_iou", "negative_iou", "num_samples", "positive_fraction", "smooth_l1_beta"),
    *("max_samples", "frozen_stages", "drop_path", "dtype", "low_quality", "min_low_quality_iou"),
    *("loss_divisor", "ground_truth", "mask_targets", "box_loss", "box_loss_weight"),
    *("federated_classes", "federated_power", "class_frequencies"),
}


# Fields that make a network one of another kind, which has configs of its own.
OF_KIND = {"model.cascade", "model.box_head.res5", "model.backbone.last_level"}


OF_TRAINING = {"model.rpn.num_candidates", "model.rpn.num_proposals"}


def leaves(settings, prefix):
    for name, value in to_dict(settings).items():
        if isinstance(value, dict):
            yield from (f"{prefix}{name}.{rest}" for rest in flat(value))
        else:
            yield f"{prefix}{name}"


def flat(values):
    for name, value in values.items():
        yield from (f"{name}.{x}" for x in flat(value)) if isinstance(value, dict) else [name]


def test_every_rule_of_detection_is_compared():
    fields = {*leaves(ModelConfig(), "model."), *leaves(DetectionConfig(), "detection.")}
    for backbone in (ConvNeXtConfig(), ViTConfig()):
        fields |= {*leaves(backbone, "model.backbone.")}
    wanted = {x for x in fields if x.rpartition(".")[2] not in TRAINING} - OF_TRAINING - OF_KIND
    compared = {x for x in differences.FIELDS if not x.startswith(("data.", "model.cascade."))}
    assert compared == wanted


def test_the_table_says_what_cannot_be_set():
    config = Config(model=presets.maskrcnn_resnet50_fpn())
    name, found = differences.find(config, "mmdet", is_bgr=False)
    text = differences.table(found, name)
    assert name == "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    assert "| rounded anchors (model.rpn.round_anchors) | yes | no | cannot be set |" in text
    assert "| RoIAlign aligned (model.roi.aligned) | no | yes | roi_head.{bbox,mask}_roi_" in text
    assert "bgr_to_rgb" not in text and "model.image_mean" not in text
    there = differences.as_computed(config, found)
    assert there.detection.paste == "centres" and not there.model.roi.aligned
    assert there.model.limit_shrinking and config.detection.paste == "expanded"


def test_nothing_differs_from_torchvisions_own_networks():
    for name, build in presets.PRESETS.items():
        assert differences.find(Config(model=build()), "torchvision", False) == (name, [])


def test_a_network_is_compared_with_those_of_its_kind():
    for target, build, name in (
        ("detectron2", presets.detectron2_r50_c4, "mask_rcnn_R_50_C4_3x.yaml"),
        ("detectron2", presets.detectron2_cascade_r50_fpn, "cascade_mask_rcnn_R_50_FPN_3x.yaml"),
        ("mmdet", presets.mmdet_x101_64x4d_fpn, "mask-rcnn_x101-64x4d_fpn_1x_coco.py"),
    ):
        config = build(81)
        found, rules = differences.find(config, target, presets.reads_bgr(config.model))
        assert found.endswith(name) and rules == []


def test_presets_of_other_kinds_are_not_near():
    """A cascade with the rules of a plain network is still no plain network."""
    config = presets.detectron2_r50_fpn(81)
    config.model.cascade = presets.detectron2_cascade_r50_fpn().model.cascade
    name, found = differences.find(config, "detectron2", is_bgr=True)
    assert "cascade" in name and [x.rule for x in found] == ["model.box_head.class_agnostic"]


def test_statistics_in_another_order_are_listed():
    """MMDetection writes them in the order of the channels."""
    config = presets.detectron2_r50_fpn(81)
    _, found = differences.find(config, "detectron2", is_bgr=False)
    assert [x.rule for x in found] == [peer_settings.ORDER, *differences.PIXELS]
    assert (found[0].here, found[0].there) == ("RGB", "BGR")


def test_what_a_network_does_not_have_is_no_rule():
    config = presets.detectron2_r50_fpn(81)
    config.model.mask_head, config.model.roi.pooling = None, "pool"
    config.model.box_head.channels, config.model.roi.sampling_ratio = 99, 3
    _, found = differences.find(config, "detectron2", is_bgr=True)
    assert [x.rule for x in found] == [peer_settings.MASKS, "model.roi.pooling"]


def test_rounded_statistics_and_frozen_norms_are_equal():
    config = presets.detectron2_r50_fpn(81)
    config.model.image_mean = tuple(x * (1 + 1e-7) for x in config.model.image_mean)
    config.model.backbone.norm = "fixed_batch"
    assert differences.find(config, "detectron2", is_bgr=True)[1] == []
    config.model.image_mean = tuple(x * (1 + 1e-5) for x in config.model.image_mean)
    assert len(differences.find(config, "detectron2", is_bgr=True)[1]) == 1


def test_values_in_a_table():
    rows = [
        differences.Difference("model.roi.aligned", True, False, "A: True"),
        differences.Difference("model.rpn.anchor_sizes", (1 / 3, 2.0), (8.0,), None),
    ]
    assert differences.table(rows, "base.yaml").splitlines() == [
        "| rule | this model | base.yaml | to set there |",
        "|---|---|---|---|",
        "| RoIAlign aligned (model.roi.aligned) | yes | no | A: True |",
        "| model.rpn.anchor_sizes | 0.333333, 2 | 8 | cannot be set |",
    ]
