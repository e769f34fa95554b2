"""Files for other libraries: the same bits within a family, classes and rules between them."""

import pickle

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.weights import (
    detectron2,
    detectron2_config,
    files,
    loading,
    mmdetection,
    peer_settings,
    torchvision,
    translation,
)
from tests.weights.families import reduced, state_of
from tests.weights.states import small, with_counters
from tests.weights.states import state_of as torchvision_state_of

D2, MM = presets.detectron2_r50_fpn, presets.mmdet_r50_fpn
COCO, TORCHVISION_COCO = Categories.coco(), Categories.torchvision_coco()
OTHERS = pytest.mark.parametrize("build", presets.OF_OTHERS.values(), ids=lambda x: x.__name__)
BODY = "backbone.bottom_up."


def target_of(build):
    return "detectron2" if build.__name__.startswith("detectron2") else "mmdet"


def state_for(build, num_classes=81):
    """The arrays of a file as the library itself writes it, with its batch counters."""
    config = reduced(build(num_classes), 101 if "x101" in build.__name__ else 50)
    if target_of(build) == "mmdet":
        scale = 58 if presets.is_of_caffe(config.model) else 1
        return state_of(mmdetection, config, scale=scale, counters=("b", "n", "r"))
    # Detectron2 counts the batches of frozen stages too, if the others train.
    scale = 58 if presets.is_of_caffe(config.model) else 1
    is_trained = getattr(config.model.backbone, "norm", None) == "batch"
    counters = ("backbone", "roi_heads") if is_trained else ""
    return state_of(detectron2, config, scale=scale, counters=counters)


def load(tmp_path, state, **options):
    files.write(tmp_path / "in.safetensors", state)
    return loading.load(tmp_path / "in.safetensors", **options)


def written(tmp_path, loaded, target):
    """The arrays of a file; safetensors are read faster than pickles while types are checked."""
    translated = translation.translate(loaded, target)
    translation.write(tmp_path / "out.safetensors", translated, consume=True)
    return files.read(tmp_path / "out.safetensors").arrays


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape, name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


@OTHERS
def test_within_a_family_no_bit_changes(tmp_path, build):
    state, target = state_for(build), target_of(build)
    loaded = load(tmp_path, state)
    assert not translation.translate(loaded, target).moves
    assert_same(written(tmp_path, loaded, target), state)


@OTHERS
def test_a_model_of_ours_gets_the_same_names_and_counters_of_zero(tmp_path, build):
    state, target = state_for(build), target_of(build)
    # A file of ours does not know where its arrays came from.
    loaded = load(tmp_path, state)._replace(origin=None)
    zeros = {x: 0 * array for x, array in state.items() if x.endswith("num_batches_tracked")}
    assert_same(written(tmp_path, loaded, target), state | zeros)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_old_files_keep_what_is_a_setting_here(tmp_path, order):
    step = -1 if order == "BGR" else 1
    state = state_for(D2)
    state["pixel_mean"] = np.float32([123.675, 116.28, 103.53])[::step].reshape(3, 1, 1)
    state["pixel_std"] = np.ones((3, 1, 1), np.float32)
    for level in range(5):
        sizes = np.float32([[-16, -8, 16, 8], [-12, -12, 12, 12], [-8, -16, 8, 16]]) * 2**level
        state[f"{detectron2.CELLS}{level}"] = sizes
    assert_same(written(tmp_path, load(tmp_path, state), "detectron2"), state)


def test_detectron2_gets_the_weights_of_a_federated_loss(tmp_path):
    loaded = load(tmp_path, state_for(D2, 4))._replace(origin=None)
    head = loaded.config.model.box_head
    head.classifier, head.federated_classes = "sigmoid", 50
    head.class_frequencies = (4.0, 9.0, 100.0)
    translated = translation.translate(loaded, "detectron2")
    assert "USE_FED_LOSS" in " ".join(translated.notes) and not translated.moves
    translation.write(tmp_path / "out.safetensors", translated)
    arrays = files.read(tmp_path / "out.safetensors").arrays
    np.testing.assert_array_equal(arrays[detectron2.FEDERATED], np.float32([2, 3, 10]))
    again = loading.load(tmp_path / "out.safetensors")
    assert again.config.model.box_head == head
    assert_same(written(tmp_path, again, "detectron2"), arrays)


@pytest.mark.parametrize("counted", [False, True])
def test_torchvisions_files_keep_their_counters(tmp_path, counted):
    state = torchvision_state_of(small(presets.maskrcnn_resnet50_fpn(91), stem_channels=64))
    state = with_counters(state) if counted else state
    assert_same(written(tmp_path, load(tmp_path, state), "torchvision"), state)


def test_torchvisions_80_classes_stay_80(tmp_path):
    """Also where our metadata name COCO's categories: its labels are known to be others."""
    config = small(presets.maskrcnn_resnet50_fpn(81), stem_channels=64)
    state = torchvision_state_of(config)
    loaded = load(tmp_path, state)._replace(categories=COCO)
    assert_same(written(tmp_path, loaded, "torchvision"), state)


def test_a_pickle_is_one_of_the_model_zoo(tmp_path):
    state = state_for(D2)
    translated = translation.translate(load(tmp_path, state), "detectron2")
    translation.write(tmp_path / "out.pkl", translated)
    content = pickle.loads((tmp_path / "out.pkl").read_bytes(), encoding="latin1")
    assert content.keys() == {"model", "__author__"}
    assert_same(content["model"], state)


def test_mmdetections_files_name_their_classes(tmp_path, monkeypatch):
    seen = []
    loaded = load(tmp_path, state_for(MM, 3))
    monkeypatch.setattr(files, "write", lambda path, arrays, about, classes: seen.append(classes))
    for categories in (Categories((4, 9), ("a", "b")), None):
        translated = translation.translate(loaded._replace(categories=categories), "mmdet")
        translation.write(tmp_path / "out.pth", translated)
    assert seen == [("a", "b"), None]


# Between families.


def full_stem(config):
    """torchvision has no other stem than that of 64 channels."""
    config.model.backbone.stem_channels = 64
    return config


def test_detectron2s_80_classes_become_90_labels_and_80_again(tmp_path):
    state = state_of(detectron2, full_stem(reduced(D2(), 18)))
    loaded = load(tmp_path, state)
    translated = translation.translate(loaded, "torchvision")
    assert translated.categories == TORCHVISION_COCO and translated.source.model.num_classes == 91
    translation.write(tmp_path / "tv.safetensors", translated)
    found = files.read(tmp_path / "tv.safetensors").arrays
    scores = found["roi_heads.box_predictor.cls_score.bias"]
    theirs = state["roi_heads.box_predictor.cls_score.bias"]
    assert scores[0] == theirs[80] and scores[90] == theirs[79] and scores[1] == theirs[0]
    assert scores[12] == translation.NEVER  # COCO has no category 12.
    deltas = found["roi_heads.box_predictor.bbox_pred.weight"].reshape(91, 4, -1)
    theirs = state["roi_heads.box_predictor.bbox_pred.weight"].reshape(80, 4, -1)
    np.testing.assert_array_equal(deltas[[1, 13, 90]], theirs[[0, 11, 79]])
    masks = found["roi_heads.mask_predictor.mask_fcn_logits.bias"]
    assert masks[13] == state["roi_heads.mask_head.predictor.bias"][11] and masks[12] == 0
    again = loading.load(tmp_path / "tv.safetensors")
    assert again.categories == TORCHVISION_COCO and again.config.model.roi.aligned
    assert_same(written(tmp_path, again, "detectron2"), state)


def test_mmdetection_keeps_detectron2s_80_classes(tmp_path):
    state = state_for(D2)
    translated = translation.translate(load(tmp_path, state), "mmdet")
    assert translated.is_bgr and translated.base == "mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py"
    translation.write(tmp_path / "mm.safetensors", translated)
    found = files.read(tmp_path / "mm.safetensors").arrays
    np.testing.assert_array_equal(found["backbone.conv1.weight"], state[detectron2.STEM])
    assert sum(x.endswith("num_batches_tracked") for x in found) == 53
    again = loading.load(tmp_path / "mm.safetensors")
    assert_same(written(tmp_path, again, "detectron2"), state)


def test_torchvisions_stem_stays_rgb(tmp_path):
    config = small(presets.maskrcnn_resnet50_fpn(), depth=50)
    state = torchvision_state_of(config)
    loaded = load(tmp_path, state)
    translated = translation.translate(loaded, "detectron2")
    found = {each.rule: each for each in translated.differences}
    assert not translated.is_bgr and translated.categories == COCO and translated.moves
    assert found[peer_settings.ORDER].setting == "INPUT.FORMAT: RGB"
    assert found["model.rpn.round_anchors"].setting is None
    assert not translated.config.model.rpn.round_anchors
    assert translated.source.model.rpn.round_anchors
    stem = written(tmp_path, loaded, "detectron2")[detectron2.STEM]
    np.testing.assert_array_equal(stem, state[torchvision.STEM])


def test_detectron2_gets_another_eps_in_the_variances(tmp_path):
    config = small(presets.maskrcnn_resnet50_fpn(4), depth=50)
    state = {x: np.abs(array) + 1 for x, array in torchvision_state_of(config).items()}
    loaded = load(tmp_path, state, norm_eps=0.0)
    translated = translation.translate(loaded, "detectron2")
    assert "folded into the variances of backbone" in translated.notes[0]
    # MMDetection has a setting for it.
    found = translation.translate(loaded, "mmdet").differences
    assert any("eps=0" in str(each.setting) for each in found)
    arrays = written(tmp_path, loaded, "detectron2")
    variance = arrays[f"{BODY}res2.0.conv1.norm.running_var"]
    theirs = state["backbone.body.layer1.0.bn1.running_var"]
    np.testing.assert_allclose(variance + np.float32(1e-5), theirs, rtol=2e-7)
    assert (variance < theirs).all()


@pytest.mark.parametrize(
    "fields, target, reason",
    [
        ({"backbone.norm": "group"}, "torchvision", 'backbone.norm "group"'),
        ({"mask_head.norm": "group"}, "torchvision", 'mask_head.norm "group"'),
        ({"backbone.stem_channels": 32}, "torchvision", "backbone.stem_channels 32"),
        ({"box_head.num_layers": 3}, "torchvision", "box_head.num_layers 3"),
        ({"box_head.classifier": "sigmoid"}, "torchvision", 'box_head.classifier "sigmoid"'),
        ({"box_head.classifier": "sigmoid"}, "mmdet", 'model.box_head.classifier "sigmoid"'),
        ({"mask_head.num_convs": 10}, "detectron2", "model.mask_head.num_convs 10"),
        ({"box_head.num_layers": 0}, "mmdet", "a box head without layers"),
        ({"rpn.num_convs": 0}, "mmdet", "model.rpn.num_convs 0"),
        ({"fpn.norm": "group", "fpn.norm_eps": 1e-3}, "detectron2", "fpn.norm_eps 0.001"),
        ({"image_mean": (0.5,)}, "mmdet", "1 channels of images"),
        ({"image_mean": (0.5,)}, "torchvision", "1 channels of images"),
    ],
)
def test_what_a_library_lacks_is_refused_by_name(fields, target, reason):
    config = Config()
    for field, value in fields.items():
        detectron2_config.set_field(config, f"model.{field}", value)
    with pytest.raises(ValueError, match=f"{target} has no network with .*{reason}"):
        translation.check_can_build(config.model, target)


def test_faster_r_cnns_are_written_too(tmp_path):
    for build, target in ((D2, "mmdet"), (MM, "detectron2")):
        state = {x: array for x, array in state_for(build).items() if "mask" not in x}
        translated = translation.translate(load(tmp_path, state), target)
        # The nearest config has a mask head.
        (switch,) = [x for x in translated.differences if x.rule == peer_settings.MASKS]
        assert switch.setting in ("MODEL.MASK_ON: False", "type='FasterRCNN'")
        translation.write(tmp_path / "out.safetensors", translated)
        assert loading.load(tmp_path / "out.safetensors").config.model.mask_head is None
