"""Changes that make one network of Detectron2 of another; test_presets.py counts parameters."""

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.presets import detectron2


def test_a_c4_network_has_its_last_stage_in_the_heads():
    config = presets.detectron2_r50_fpn(4)
    presets.use_c4(config)
    model = config.model
    assert model.levels == (4,) and model.fpn is None and model.backbone.last_level == 4
    assert (model.box_head.res5, model.box_head.resolution, model.mask_head.num_convs) == (
        *(True, 14),
        0,
    )
    assert (model.rpn.num_candidates, config.detection.num_candidates) == (12_000, 6000)


def test_a_dc5_network_has_the_resolution_of_c4():
    config = presets.detectron2_r50_fpn(4)
    presets.use_dc5(config)
    assert config.model.levels == (4,) and config.model.backbone.last_level == 5
    assert config.model.box_head == presets.detectron2_r50_fpn(4).model.box_head


@pytest.mark.parametrize("change", [presets.use_c4, detectron2.use_norm])
def test_a_network_without_masks_stays_one(change):
    config = presets.detectron2_r50_fpn(4)
    config.model.mask_head = None
    change(config) if change is presets.use_c4 else change(config.model, "group")
    assert config.model.mask_head is None


def test_a_cascade_has_one_box_for_all_classes():
    config = presets.detectron2_r50_fpn(4)
    presets.use_cascade(config)
    assert config.model.cascade.num_stages == 3 and config.model.box_head.class_agnostic
    assert config.model.rpn.num_proposals == 2000


def test_a_norm_everywhere_but_in_the_rpn():
    model = presets.detectron2_r50_fpn(4).model
    detectron2.use_norm(model, "group")
    parts = model.backbone, model.fpn, model.box_head, model.mask_head
    assert {part.norm for part in parts} == {"group"}
    assert (model.box_head.num_convs, model.box_head.num_layers) == (4, 1)


def test_a_preset_is_new_each_time():
    first = presets.detectron2_vitdet_l()
    first.model.backbone.depth = first.data.test_short_side = 1
    second = presets.detectron2_vitdet_l()
    assert second.model.backbone.depth == 24 and second.data.test_short_side == 1024
    assert second.model.backbone.global_blocks == (5, 11, 17, 23)
