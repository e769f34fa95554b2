"""The heads of each config, and the paths of their modules."""

import dataclasses

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.roi_heads import c4, cascade, composition, plain
from maskrcnn_jax.settings import freeze

KINDS = {
    "detectron2_r50_fpn": (plain.PlainBoxHead, plain.PlainMaskHead),
    "detectron2_r50_c4": (c4.C4BoxHead, plain.PlainMaskHead),
    "detectron2_cascade_r50_fpn": (cascade.CascadeBoxHead, plain.PlainMaskHead),
    "mmdet_cascade_r50_fpn": (cascade.CascadeBoxHead, cascade.CascadeMaskHead),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_heads_of_each_network(name):
    config = presets.OF_OTHERS[name](4).model
    heads = composition.build(freeze(config), Execution())
    assert tuple(map(type, heads)) == KINDS[name]
    without = dataclasses.replace(config, mask_head=None)
    boxes, masks = composition.build(freeze(without), Execution())
    assert type(boxes) is KINDS[name][0] and masks is None


@pytest.mark.parametrize(
    "name, num_boxes, num_masks",
    [
        ("detectron2_r50_c4", 1, 1),
        ("detectron2_cascade_r50_fpn", 3, 1),
        ("mmdet_cascade_r50_fpn", 3, 3),
    ],
)
def test_the_modules_of_each_stage(name, num_boxes, num_masks):
    paths = composition.module_paths(presets.OF_OTHERS[name](4).model)
    for part, count in (("box_head", num_boxes), ("mask_head", num_masks)):
        stages = [(part, f"stage_{i}") for i in range(count)]
        assert paths[part] == ([(part,)] if count == 1 else stages)
