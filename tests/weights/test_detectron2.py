"""Detectron2's detectors: names, counts, the order of classes, and what is inferred of a file."""

from math import prod

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.ops import anchors
from maskrcnn_jax.weights import (
    detectron2,
    files,
    layout,
    loading,
    model_metadata,
    saving,
    torchvision,
)
from tests.weights.families import reduced, state_of

R50, GN = presets.detectron2_r50_fpn, presets.detectron2_r50_fpn_gn
SYNCBN, LSJ = presets.detectron2_r50_fpn_syncbn, presets.detectron2_r50_fpn_lsj
X101 = presets.detectron2_x101_32x8d_fpn
C4, DC5 = presets.detectron2_r50_c4, presets.detectron2_r50_dc5
CASCADE = presets.detectron2_cascade_r50_fpn
EVERY = pytest.mark.parametrize(
    "build", [R50, presets.detectron2_r101_fpn, X101, GN, SYNCBN, LSJ, CASCADE, C4, DC5]
)


def counters_of(build):
    """Names with counters: in ``_syncbn`` the stem and the first stage are frozen."""
    if build is SYNCBN:
        return ("backbone.bottom_up.res3", "backbone.bottom_up.res5", "backbone.fpn", "roi_heads")
    return ("backbone", "roi_heads") if build is LSJ else ""


@pytest.mark.parametrize(
    "build, num_arrays, num_parameters",
    [
        (R50, 307, 44_343_216),
        (presets.detectron2_r101_fpn, 562, 63_283_120),
        (X101, 562, 107_427_760),
        (GN, 223, 45_711_152),
        # Less the batch counters, of which Detectron2's model has 69.
        (SYNCBN, 430 - 69, None),
        (CASCADE, 323, 71_984_926),
        (C4, 279, 35_909_612),
        (DC5, 291, 172_353_516),
    ],
)
def test_the_tables_have_as_many_arrays_as_detectron2s_models(build, num_arrays, num_parameters):
    table = list(detectron2.entries(build().model))
    assert len(table) == len({x.name for x in table}) == num_arrays
    # Frozen norms have no parameters.
    learned = [x for x in table if build is GN or ".norm." not in x.name]
    if num_parameters is not None:
        assert sum(prod(x.shape) for x in learned) == num_parameters


def test_names_and_shapes_are_detectron2s():
    shapes = layout.shapes(detectron2.entries(R50().model))
    expected = {
        "backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7),
        "backbone.bottom_up.stem.conv1.norm.running_var": (64,),
        "backbone.bottom_up.res2.0.shortcut.weight": (256, 64, 1, 1),
        "backbone.bottom_up.res2.0.shortcut.norm.weight": (256,),
        "backbone.bottom_up.res4.5.conv3.norm.bias": (1024,),
        "backbone.fpn_lateral5.weight": (256, 2048, 1, 1),
        "backbone.fpn_output2.bias": (256,),
        "proposal_generator.rpn_head.conv.weight": (256, 256, 3, 3),
        "proposal_generator.rpn_head.objectness_logits.bias": (3,),
        "proposal_generator.rpn_head.anchor_deltas.weight": (12, 256, 1, 1),
        "roi_heads.box_head.fc1.weight": (1024, 12544),
        "roi_heads.box_predictor.cls_score.weight": (81, 1024),
        "roi_heads.box_predictor.bbox_pred.bias": (320,),
        "roi_heads.mask_head.mask_fcn4.weight": (256, 256, 3, 3),
        "roi_heads.mask_head.deconv.weight": (256, 256, 2, 2),
        "roi_heads.mask_head.predictor.weight": (80, 256, 1, 1),
    }
    assert {name: shapes[name] for name in expected} == expected
    shapes = layout.shapes(detectron2.entries(LSJ().model))
    for name, shape in {
        "backbone.fpn_lateral2.norm.weight": (256,),
        "proposal_generator.rpn_head.conv.conv1.bias": (256,),
        "roi_heads.box_head.conv4.norm.running_mean": (256,),
        "roi_heads.box_head.fc1.bias": (1024,),
        "roi_heads.mask_head.mask_fcn1.norm.bias": (256,),
    }.items():
        assert shapes[name] == shape
    assert "roi_heads.box_head.conv1.bias" not in shapes
    shapes = layout.shapes(detectron2.entries(CASCADE().model))
    assert shapes["roi_heads.box_head.2.fc2.weight"] == (1024, 1024)
    assert shapes["roi_heads.box_predictor.1.bbox_pred.bias"] == (4,)
    assert shapes["roi_heads.box_predictor.0.cls_score.bias"] == (81,)
    assert shapes["roi_heads.mask_head.predictor.bias"] == (80,)
    shapes = layout.shapes(detectron2.entries(C4().model))
    for name, shape in {
        "backbone.stem.conv1.norm.bias": (64,),
        "backbone.res4.0.shortcut.weight": (1024, 512, 1, 1),
        "proposal_generator.rpn_head.conv.weight": (1024, 1024, 3, 3),
        "proposal_generator.rpn_head.anchor_deltas.bias": (60,),
        "roi_heads.res5.0.conv1.weight": (512, 1024, 1, 1),
        "roi_heads.res5.2.conv3.norm.running_var": (2048,),
        "roi_heads.box_predictor.cls_score.weight": (81, 2048),
        "roi_heads.mask_head.deconv.weight": (2048, 256, 2, 2),
        "roi_heads.mask_head.predictor.weight": (80, 256, 1, 1),
    }.items():
        assert shapes[name] == shape
    shapes = layout.shapes(detectron2.entries(DC5().model))
    for name, shape in {
        "backbone.res5.0.conv1.weight": (512, 1024, 1, 1),
        "proposal_generator.rpn_head.conv.weight": (2048, 2048, 3, 3),
        "proposal_generator.rpn_head.objectness_logits.bias": (15,),
        "roi_heads.box_head.fc1.weight": (1024, 100_352),
        "roi_heads.mask_head.mask_fcn1.weight": (256, 2048, 3, 3),
    }.items():
        assert shapes[name] == shape


@EVERY
def test_round_trip(build):
    config = reduced(build(4))
    state = state_of(detectron2, config)
    table = list(detectron2.entries(config.model))
    back = layout.restore(layout.arrange(state, table), table)
    assert list(back) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def load(tmp_path, state, **options):
    files.write(tmp_path / "w.safetensors", state)
    return loading.load(tmp_path / "w.safetensors", **options)


def test_classes_channels_and_rows_are_where_the_model_reads_them(tmp_path):
    state = state_of(detectron2, reduced(R50(4)))
    params = load(tmp_path, state).variables["params"]
    scores = params["box_head"]["cls_score"]["bias"]
    np.testing.assert_array_equal(
        scores, state["roi_heads.box_predictor.cls_score.bias"][[3, 0, 1, 2]]
    )
    deltas = params["box_head"]["bbox_pred"]["bias"].reshape(4, 4)
    np.testing.assert_array_equal(deltas[0], 0)
    np.testing.assert_array_equal(
        deltas[1:].ravel(), state["roi_heads.box_predictor.bbox_pred.bias"]
    )
    kernel = params["mask_head"]["logits"]["kernel"]
    assert not kernel[..., 0].any()
    theirs = state["roi_heads.mask_head.predictor.weight"][2, 5, 0, 0]
    assert kernel[0, 0, 5, 3] == theirs
    stem = state["backbone.bottom_up.stem.conv1.weight"]  # It reads BGR.
    assert params["backbone"]["conv1"]["kernel"][1, 2, 0, 3] == stem[3, 2, 1, 2]


@EVERY
def test_the_network_of_a_file_is_that_of_its_preset(tmp_path, build):
    config = reduced(build(4), depth=101 if "101" in build.__name__ else 50)
    scale = 1.0 if build is X101 else 58.0
    loaded = load(tmp_path, state_of(detectron2, config, scale=scale, counters=counters_of(build)))
    assert loaded.config.model == config.model
    assert loaded.config.detection == config.detection and loaded.config.data == config.data
    assert loaded.categories is None and "rules of Detectron2" in str(loaded.report)
    pixels = "divided by their deviation" if build is X101 else "of 0 to 255 less their mean"
    assert f"BGR pixels {pixels}" in str(loaded.report)


def test_each_part_may_have_its_own_norm_and_number_of_layers(tmp_path):
    config = reduced(GN(4), depth=50)
    config.model.fpn.norm, config.model.mask_head.norm = "none", "batch"
    config.model.mask_head.num_convs, config.model.rpn.num_convs = 3, 3
    config.model.box_head.num_convs, config.model.box_head.num_layers = 2, 2
    state = state_of(detectron2, config, counters="roi_heads.mask_head")
    assert load(tmp_path, state).config.model == config.model


def test_a_network_of_torchvisions_backbones_is_told_by_its_statistics(tmp_path):
    config = reduced(R50(4))
    state = state_of(detectron2, config, scale=1.0)
    loaded = load(tmp_path, state)
    presets.use_torchvision_input(config.model)
    assert loaded.config.model == config.model and not loaded.config.model.backbone.stride_in_1x1
    assert "RGB pixels divided by their deviation" in str(loaded.report)
    assert "1.0 times its squared weights" in str(loaded.report)
    stem = state["backbone.bottom_up.stem.conv1.weight"]
    kernel = loaded.variables["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, stem.transpose(2, 3, 1, 0))


def test_the_caller_may_know_better(tmp_path):
    config = reduced(R50(4))
    state = state_of(detectron2, config)
    model = reduced(R50(4)).model
    presets.use_torchvision_input(model)
    loaded = load(tmp_path, state, config=model, channel_order="RGB")
    assert loaded.config.model == model and "RGB channels, as given" in str(loaded.report)
    assert loaded.config.data.size_rule == "detectron2"
    stem = state["backbone.bottom_up.stem.conv1.weight"]
    kernel = loaded.variables["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, stem.transpose(2, 3, 1, 0))
    with pytest.raises(ValueError, match="channel_order must be"):
        load(tmp_path, state, channel_order="GBR")


@pytest.mark.parametrize("is_bgr", [True, False])
def test_pixels_and_anchors_in_old_files_are_taken(tmp_path, is_bgr):
    state = state_of(detectron2, reduced(R50(4)))
    step = 1 if is_bgr else -1
    state["pixel_mean"] = np.float32([100, 110, 120])[::step].reshape(3, 1, 1)
    state["pixel_std"] = np.float32([57.375, 57.12, 58.395])[::step].reshape(3, 1, 1)
    for i, size in enumerate((16, 32, 64, 128, 256)):
        cell = anchors.cell_anchors(size, (0.5, 1.0, 2.0), rounded=False)
        state[f"proposal_generator.anchor_generator.cell_anchors.{i}"] = cell
    loaded = load(tmp_path, state)
    model = loaded.config.model
    np.testing.assert_allclose(np.multiply(model.image_mean, 255), [120, 110, 100], rtol=1e-6)
    np.testing.assert_allclose(np.multiply(model.image_std, 255), [58.395, 57.12, 57.375], 1e-6)
    assert not model.backbone.stride_in_1x1
    assert model.rpn.anchor_sizes == (16, 32, 64, 128, 256) and not model.rpn.round_anchors
    assert model.rpn.aspect_ratios == (0.5, 1, 2)
    order = "BGR" if is_bgr else "RGB"
    assert f"{order} pixels with the statistics in the file" in str(loaded.report)
    assert "anchors as in the file" in str(loaded.report)
    stem = state["backbone.bottom_up.stem.conv1.weight"].transpose(2, 3, 1, 0)
    kernel = loaded.variables["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, stem[:, :, ::-1] if is_bgr else stem)


@pytest.mark.parametrize("build, in_1x1", [(R50, True), (GN, False)])
def test_pixels_of_the_model_zoo_leave_the_strides_to_the_preset(tmp_path, build, in_1x1):
    state = state_of(detectron2, reduced(build(4)))
    state |= {"pixel_mean": np.float32([103.53, 116.28, 123.675]), "pixel_std": np.ones(3)}
    model = load(tmp_path, state).config.model
    assert model.backbone.stride_in_1x1 == in_1x1
    np.testing.assert_allclose(model.image_mean, build().model.image_mean)


@pytest.mark.parametrize("build", [CASCADE, C4, DC5], ids=["cascade", "C4", "DC5"])
def test_a_file_of_another_network_is_named_with_its_preset(tmp_path, build):
    state = state_of(detectron2, reduced(build(4), depth=50))
    message = f"does not fit Mask R-CNN with ResNet-50-FPN.*presets.{build.__name__}:"
    with pytest.raises(ValueError, match=f"w.safetensors {message}"):
        load(tmp_path, state, config=reduced(R50(4), depth=50).model)


def test_a_file_of_a_library_without_the_wanted_network_is_named_with_its_preset(tmp_path):
    state = state_of(detectron2, reduced(DC5(4), depth=50))
    message = "has Detectron2's names, but Detectron2 has no model with torchvision's ConvNeXt; "
    message += "it looks like Mask R-CNN with ResNet-50-DC5.*presets.detectron2_r50_dc5"
    with pytest.raises(ValueError, match=f"w.safetensors {message}"):
        load(tmp_path, state, config=presets.maskrcnn_convnext_tiny_fpn(4))


def test_80_classes_are_cocos(tmp_path):
    loaded = load(tmp_path, state_of(detectron2, reduced(R50())))
    assert loaded.categories == Categories.coco()
    assert loaded.categories.name(80) == "toothbrush" and loaded.categories.category_id(80) == 90
    assert loaded.categories.category_id(12) == 13 and len(loaded.categories) == 80


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_without_masks_is_a_faster_rcnn(tmp_path, wrapped):
    config = reduced(R50(4))
    config.model.mask_head = None
    state = state_of(detectron2, config)
    assert load(tmp_path, state).config.model == config.model


@pytest.mark.parametrize("head", ["box_head", "mask_head"])
def test_one_box_or_one_mask_for_all_classes_is_recognised(tmp_path, head):
    config = reduced(R50(4))
    getattr(config.model, head).class_agnostic = True
    state = state_of(detectron2, config)
    theirs, ours, size = {
        "box_head": ("roi_heads.box_predictor.bbox_pred.bias", "bbox_pred", 4),
        "mask_head": ("roi_heads.mask_head.predictor.bias", "logits", 1),
    }[head]
    assert state[theirs].size == size
    loaded = load(tmp_path, state)
    assert getattr(loaded.config.model, head) == getattr(config.model, head)
    np.testing.assert_array_equal(loaded.variables["params"][head][ours]["bias"], state[theirs])
    with pytest.raises(ValueError, match=f"{head}.class_agnostic"):
        torchvision.check_can_build(config.model)


def test_the_weights_of_a_federated_loss_become_frequencies_and_go_back(tmp_path):
    config = reduced(R50(4))
    head = config.model.box_head
    head.classifier, head.federated_classes = "sigmoid", 50
    head.class_frequencies = (4.0, 0.0, 81.0)
    state = state_of(detectron2, config)
    weights = detectron2.extras(config.model)
    assert list(weights) == ["roi_heads.box_predictor.fed_loss_cls_weights"]
    np.testing.assert_array_equal(*weights.values(), np.float32([2, 0, 9]))
    state |= {name: np.float32([2, 0, 3.3]) for name in weights}
    loaded = load(tmp_path, state)
    found = loaded.config.model.box_head
    assert (found.classifier, found.federated_classes) == ("sigmoid", 50)
    assert found.class_frequencies == pytest.approx((4, 0, 3.3**2))
    assert set(loaded.variables["params"]["box_head"]) == {"fc6", "fc7", "cls_score", "bbox_pred"}
    again = detectron2.extras(loaded.config.model)
    np.testing.assert_array_equal(*again.values(), np.float32([2, 0, 3.3]))
    with pytest.raises(ValueError, match='box_head.classifier "sigmoid"'):
        torchvision.check_can_build(loaded.config.model)
    smaller = load(tmp_path, state, num_classes=3).config.model.box_head
    assert smaller.classifier == "sigmoid" and smaller.class_frequencies == ()


def test_rules_stay_with_what_is_saved(tmp_path):
    loaded = load(tmp_path, state_of(detectron2, reduced(R50(4))))
    saving.save(tmp_path / "ours.npz", loaded.config, loaded.variables, None)
    again, _ = model_metadata.decode(files.read(tmp_path / "ours.npz").metadata)
    assert again.model == loaded.config.model and again.detection == loaded.config.detection
    for name in model_metadata.IMAGES:
        assert getattr(again.data, name) == getattr(loaded.config.data, name)
    assert again.data.resize == "pillow"
    with pytest.raises(ValueError, match="roi.aligned"):
        saving.save(tmp_path / "ours.pth", loaded.config, loaded.variables, None)
    metadata = model_metadata.encode(Config(), None)
    assert "size_rule" in metadata[model_metadata.CONFIG]


def other(**arrays):
    """A file of R50-FPN with some arrays replaced; dots in names are written as __."""
    state = state_of(detectron2, reduced(R50(4)))
    return state | {name.replace("__", "."): array for name, array in arrays.items()}


ONE = np.ones(1, np.float32)
OTHERS = {
    "a Cascade R-CNN, but not of 3 stages": other(roi_heads__box_predictor__1__cls_score__bias=ONE),
    "a box for each class": state_of(detectron2, reduced(CASCADE(4)))
    | {"roi_heads.box_predictor.0.bbox_pred.bias": np.ones(12, np.float32)},
    "deformable convolutions": other(backbone__bottom_up__res3__0__conv2_offset__weight=ONE),
    "a RegNet": {"backbone.bottom_up.s1.b1.a.weight": ONE},
    "a Keypoint R-CNN": other(roi_heads__keypoint_head__conv_fcn1__bias=ONE),
    "a PointRend": other(roi_heads__mask_head__point_head__fc1__weight=ONE),
    "panoptic": other(sem_seg_head__p2__0__weight=ONE),
    "a RetinaNet": {"backbone.bottom_up.stem.conv1.weight": ONE, "head.cls_subnet.0.bias": ONE},
    "a transformer": {"backbone.bottom_up.patch_embed.proj.weight": ONE},
    "bbox_pred.weight has shape": other(roi_heads__box_predictor__bbox_pred__bias=np.ones(4)),
    "predictor.weight has shape": other(roi_heads__mask_head__predictor__bias=ONE),
    "no ResNet of": {"backbone.bottom_up.stem.conv1.weight": ONE},
    "fed_loss_cls_weights must have": other(
        roi_heads__box_predictor__fed_loss_cls_weights=np.ones(2)
    ),
    "pixel_std is": other(pixel_mean=np.ones(3), pixel_std=np.zeros(3)),
    "no boxes": other(
        **{f"proposal_generator__anchor_generator__cell_anchors__{i}": ONE for i in range(5)}
    ),
    "missing backbone.fpn_lateral3.bias": {
        k: v for k, v in other().items() if k != "backbone.fpn_lateral3.bias"
    },
    "unexpected roi_heads.box_head.extra": other(roi_heads__box_head__extra=ONE),
    "fc2.weight has shape": other(roi_heads__box_head__fc2__weight=np.ones((2, 2))),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks_and_broken_ones_are_named(tmp_path, kind):
    with pytest.raises(ValueError, match=f"w.safetensors(.|\n)*{kind}"):
        load(tmp_path, OTHERS[kind])
