"""The report on loaded weights, and the line that describes a network."""

import dataclasses

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import CascadeConfig, ModelConfig, ResNetConfig
from maskrcnn_jax.weights.norm_eps import NormEps
from maskrcnn_jax.weights.report import Report, describe, describe_backbone

EPS = NormEps(1e-5, "PyTorch's default")
REPORT = Report("run", None, "a network", {"backbone": EPS, "fpn": EPS}, 7)


def test_a_report_says_only_what_there_is_to_say():
    assert str(REPORT).splitlines() == [
        "weights: run",
        "model: a network",
        "eps of the norms: 1e-05, PyTorch's default",
        "loaded: 7 arrays",
    ]


def test_a_report_with_everything():
    report = dataclasses.replace(
        REPORT,
        digest="0123456789abcdef",
        norm_eps={"backbone": EPS, "fpn": NormEps(0.0, "as given")},
        renamed={"old": "new", "older": "newer"},
        reinitialised=("cls_score", "logits"),
        num_classes_found=91,
        reasons=("BGR pixels, as Detectron2 has them",),
    )
    assert str(report).splitlines() == [
        "weights: run (sha256 01234567...)",
        "model: a network",
        "eps of the norms of backbone: 1e-05, PyTorch's default",
        "eps of the norms of fpn: 0, as given",
        "BGR pixels, as Detectron2 has them",
        "loaded: 7 arrays",
        "old names: 2, such as old, which is now new",
        "re-initialised at random, because the weights are for 91 classes: cls_score, logits",
    ]


def test_a_network_without_norms():
    assert "eps" not in str(dataclasses.replace(REPORT, norm_eps={}))


@pytest.mark.parametrize(
    "config, line",
    [
        (
            presets.maskrcnn_resnet50_fpn(91),
            "maskrcnn_resnet50_fpn, frozen batch norm, 91 classes",
        ),
        (
            presets.fasterrcnn_resnet50_fpn_v2(3),
            "fasterrcnn_resnet50_fpn_v2, batch norm, 3 classes",
        ),
        (
            ModelConfig(num_classes=5, backbone=ResNetConfig(depth=101, norm="group")),
            "Mask R-CNN with ResNet-101-FPN and the heads of the paper, group norm, 5 classes",
        ),
        (
            ModelConfig(num_classes=5, image_mean=(0.5,), image_std=(1.0,)),
            "maskrcnn_resnet50_fpn, frozen batch norm, 5 classes, 1 channel",
        ),
        (
            ModelConfig(num_classes=5, cascade=CascadeConfig(), mask_head=None),
            "Cascade R-CNN with ResNet-50-FPN and the heads of the paper, frozen batch norm, "
            "5 classes",
        ),
        (
            presets.detectron2_r50_c4(81).model,
            "Mask R-CNN with ResNet-50-C4 and the heads of the paper, frozen batch norm, "
            "81 classes, rules of Detectron2",
        ),
        (
            presets.detectron2_r50_dc5(81).model,
            "Mask R-CNN with ResNet-50-DC5 and the heads of the paper, frozen batch norm, "
            "81 classes, rules of Detectron2",
        ),
        (
            presets.mmdet_x101_32x4d_fpn(4).model,
            "Mask R-CNN with ResNeXt-101-32x4d-FPN and the heads of the paper, "
            "batch norm with fixed statistics, 4 classes, rules of MMDetection",
        ),
        (
            presets.detectron2_vitdet_b(81).model,
            "Mask R-CNN with ViT-B-FPN and the heads of maskrcnn_resnet50_fpn_v2, layer norm, "
            "81 classes, rules of Detectron2",
        ),
    ],
)
def test_a_network_in_one_line(config, line):
    assert describe(config) == line


def test_wide_and_grouped_backbones():
    assert describe_backbone(ResNetConfig(depth=50, width_per_group=128)) == "ResNet-50-1x128d"
    grouped = ResNetConfig(depth=50, groups=32, width_per_group=4)
    assert describe_backbone(grouped) == "ResNeXt-50-32x4d"
    assert describe_backbone(presets.maskrcnn_convnext_tiny_fpn().backbone) == "convnext_tiny"
