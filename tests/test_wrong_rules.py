"""A rule of inference set wrong does not pass the recordings of Detectron2 and MMDetection.

`test_golden_training` has the rules of training. Rules that differ too seldom for a recording have
tests of their own: the level of an RoI, the stride of anchors and the shrinking of boxes in `ops`,
the size of a resized image in `test_images`.
"""

import copy

import pytest

from tests import test_golden_families
from tests.golden import small

family = test_golden_families.family
LIBRARIES = pytest.mark.parametrize("family", small.FAMILIES, indirect=True)


def with_wrong(family, field, value):
    """The recording with another value of a field, and the image resized by it."""
    config = copy.deepcopy(family.config)
    *parents, name = field.split(".")
    owner = config
    for parent in parents:
        owner = getattr(owner, parent)
    assert getattr(owner, name) != value
    setattr(owner, name, value)
    image = small.examples()[0].image
    return family._replace(config=config, batch=test_golden_families.batch_of(image, config.data))


@pytest.mark.slow
@LIBRARIES
@pytest.mark.parametrize(
    "field, value",
    [
        ("model.rpn.round_anchors", True),
        ("model.roi.aligned", False),
        ("model.roi.sampling_ratio", 2),
        ("detection.nms_threshold", 0.6),
    ],
)
def test_a_wrong_rule_for_boxes_is_noticed(family, field, value):
    with pytest.raises(AssertionError):
        test_golden_families.test_rules_for_boxes(with_wrong(family, field, value))


@LIBRARIES
@pytest.mark.parametrize(
    "field, value",
    [
        ("data.resize", "bilinear"),
        ("detection.paste", "expanded"),
        ("model.image_std", (0.2, 0.2, 0.2)),
    ],
)
def test_a_wrong_rule_for_images_and_masks_is_noticed(family, field, value):
    wrong = with_wrong(family, field, value)
    with pytest.raises(AssertionError):
        test_golden_families.test_rules_for_images_and_masks(wrong)


@pytest.mark.slow
@LIBRARIES
def test_a_stride_in_the_wrong_convolution_is_noticed(family):
    stride = family.config.model.backbone.stride_in_1x1
    wrong = with_wrong(family, "model.backbone.stride_in_1x1", not stride)
    with pytest.raises(AssertionError):
        test_golden_families.test_the_whole_network(wrong)
