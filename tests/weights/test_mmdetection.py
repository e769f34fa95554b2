"""MMDetection's detectors: names, what a config in the file says, and checkpoints with objects."""

import json
import pickle
from math import prod

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import files, layout, loading, mmdetection
from tests.weights import pytorch_bytes as build
from tests.weights.families import reduced, state_of

R50, GN, CAFFE = presets.mmdet_r50_fpn, presets.mmdet_r50_fpn_gn, presets.mmdet_r50_caffe_fpn
X4, X8 = presets.mmdet_x101_32x4d_fpn, presets.mmdet_x101_32x8d_fpn
C4 = presets.mmdet_r50_caffe_c4
CASCADE = presets.mmdet_cascade_r50_fpn
R101 = presets.mmdet_r101_fpn
EVERY = pytest.mark.parametrize(
    "preset, scale",
    [(R50, 1), (R101, 1), (X4, 1), (X8, 1), (CAFFE, 58), (GN, 58), (CASCADE, 1), (C4, 58)],
)
CONFIG = """
model = dict(type='MaskRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[{0}, 116.28, {1}],
        std=[{2}, 57.12, 57.375], bgr_to_rgb={3}, pad_mask=True),
    backbone=dict(type='ResNet', depth=50, style='{4}'), target_means=[0, 0, 0, 0])
evil = __import__('os').system('touch marker')
"""


@pytest.mark.parametrize(
    "preset, num_arrays, num_parameters",
    # Less the batch counters, which MMDetection has for each of its 53 or 104 norms.
    [
        (R50, 360 - 53, 44_396_336),
        (R101, 666 - 104, 63_388_464),
        (X4, 666 - 104, 63_017_008),
        (X8, 666 - 104, 107_630_640),
        (GN, 223, 45_711_152),
        (CASCADE, 400 - 53, 77_324_606),
        (C4, 332 - 53, 35_962_732),
    ],
)
def test_the_tables_have_as_many_arrays_as_mmdetections_models(preset, num_arrays, num_parameters):
    table = list(mmdetection.entries(preset().model))
    assert len(table) == len({x.name for x in table}) == num_arrays
    learned = [x for x in table if ".running_" not in x.name]
    assert sum(prod(x.shape) for x in learned) == num_parameters


def test_names_and_shapes_are_mmdetections():
    shapes = layout.shapes(mmdetection.entries(R50().model))
    expected = {
        "backbone.conv1.weight": (64, 3, 7, 7),
        "backbone.bn1.running_mean": (64,),
        "backbone.layer1.0.downsample.1.weight": (256,),
        "backbone.layer3.5.bn3.bias": (1024,),
        "neck.lateral_convs.3.conv.weight": (256, 2048, 1, 1),
        "neck.fpn_convs.0.conv.bias": (256,),
        "rpn_head.rpn_conv.weight": (256, 256, 3, 3),
        "rpn_head.rpn_cls.bias": (3,),
        "rpn_head.rpn_reg.bias": (12,),
        "roi_head.bbox_head.shared_fcs.0.weight": (1024, 12544),
        "roi_head.bbox_head.fc_cls.weight": (81, 1024),
        "roi_head.bbox_head.fc_reg.bias": (320,),
        "roi_head.mask_head.convs.3.conv.bias": (256,),
        "roi_head.mask_head.upsample.weight": (256, 256, 2, 2),
        "roi_head.mask_head.conv_logits.weight": (80, 256, 1, 1),
    }
    assert {name: shapes[name] for name in expected} == expected
    shapes = layout.shapes(mmdetection.entries(GN().model))
    for name in (
        "backbone.gn1.weight",
        "backbone.layer1.0.gn2.bias",
        "backbone.layer2.0.downsample.1.bias",
        "neck.fpn_convs.2.gn.weight",
        "roi_head.bbox_head.shared_convs.3.gn.bias",
        "roi_head.mask_head.convs.0.gn.weight",
    ):
        assert name in shapes
    assert "neck.fpn_convs.2.conv.bias" not in shapes
    shapes = layout.shapes(mmdetection.entries(CASCADE().model))
    assert shapes["roi_head.bbox_head.2.shared_fcs.1.weight"] == (1024, 1024)
    assert shapes["roi_head.bbox_head.1.fc_reg.bias"] == (4,)
    assert shapes["roi_head.mask_head.1.convs.0.conv.bias"] == (256,)
    assert shapes["roi_head.mask_head.2.conv_logits.bias"] == (80,)


@EVERY
def test_the_network_of_a_file_is_that_of_its_preset(tmp_path, preset, scale):
    config = reduced(preset(4), depth=101 if "101" in preset.__name__ else 50)
    state = state_of(mmdetection, config, scale=scale, counters="backbone")
    files.write(tmp_path / "w.safetensors", state)
    loaded = loading.load(tmp_path / "w.safetensors")
    assert loaded.config.model == config.model
    assert loaded.config.detection == config.detection and loaded.config.data == config.data
    assert "rules of MMDetection" in str(loaded.report) and "assumed: " in str(loaded.report)


@pytest.mark.parametrize("scale, is_bgr", [(1, False), (58, True)])
def test_the_stem_is_turned_to_rgb_in_the_style_of_caffe(tmp_path, scale, is_bgr):
    state = state_of(mmdetection, reduced(R50(4)), scale=scale)
    files.write(tmp_path / "w.safetensors", state)
    params = loading.load(tmp_path / "w.safetensors").variables["params"]
    kernel = params["backbone"]["conv1"]["kernel"]
    theirs = state["backbone.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, theirs[:, :, ::-1] if is_bgr else theirs)


def checkpoint(tmp_path, state, **parts):
    """Writes a checkpoint as MMEngine does: a state dict beside other parts, in PyTorch's format.

    ``parts`` are pickled; a value of bytes is the content of a pickle.
    """
    tensors, storages = {}, {}
    for key, (name, array) in enumerate(state.items()):
        array = np.ascontiguousarray(array, np.float32)
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        tensors[name] = build.tensor(build.storage(str(key), array.size), array.shape, strides)
        storages[str(key)] = array.tobytes()
    state_dict = build.mapping(tensors, build.ORDERED_DICT)
    content = {
        name: part if isinstance(part, bytes) else pickle.dumps(part, 2)[2:-1]
        for name, part in parts.items()
    }
    root = build.mapping(content | {"state_dict": state_dict})
    (tmp_path / "w.pth").write_bytes(build.zip_file(root, storages))
    return tmp_path / "w.pth"


@pytest.mark.parametrize("key", ["cfg", "config"])
@pytest.mark.parametrize("style, is_rgb", [("pytorch", True), ("caffe", False)])
def test_the_config_in_a_file_is_read_as_literals(tmp_path, monkeypatch, key, style, is_rgb):
    monkeypatch.chdir(tmp_path)
    means = (123.675, 103.53) if is_rgb else (103.53, 123.675)
    text = CONFIG.format(*means, 58.395, is_rgb, style)
    state = state_of(mmdetection, reduced(R50(4)))
    loaded = loading.load(checkpoint(tmp_path, state, meta={key: text}))
    model = loaded.config.model
    np.testing.assert_allclose(np.multiply(model.image_mean, 255), [123.675, 116.28, 103.53])
    order = slice(None) if is_rgb else slice(None, None, -1)
    np.testing.assert_allclose(np.multiply(model.image_std, 255), [58.395, 57.12, 57.375][order])
    assert model.backbone.stride_in_1x1 == (style == "caffe")
    assert "as the config in the file says" in str(loaded.report)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model = (",
        "x = 1",
        CONFIG.format("mean()", 1, 58, True, "pytorch"),
        CONFIG.format(1, 1, 0, True, "pytorch"),
        CONFIG.format(1, 1, 58, "maybe", "pytorch"),
        CONFIG.format(1, 1, 58, True, "other"),
        CONFIG.format(1, "1e99", 58, True, "pytorch"),
        CONFIG.format(1, 1, 58, True, "pytorch") + "y = dict(mean=[1, 2, 3])",
        "x = dict(mean=[1, 2], std=[1, 2], bgr_to_rgb=True)",
        "dict(mean=[{[1]: 2}], std=[{[]}], to_rgb=True)",
        "(" * 10_000,
        "-" * 100_000 + "1",
        "x" * (1 << 21),
    ],
)
def test_a_config_that_says_nothing_or_two_things_is_not_used(text):
    assert mmdetection.read_config(text) is None


NAMES = ["cat", "dog"]


@pytest.mark.parametrize("meta", [{"CLASSES": tuple(NAMES)}, {"dataset_meta": {"classes": NAMES}}])
def test_classes_come_from_the_file(tmp_path, meta):
    path = checkpoint(tmp_path, state_of(mmdetection, reduced(R50(3))), meta=meta)
    assert loading.load(path).categories == Categories((1, 2), ("cat", "dog"))


@pytest.mark.parametrize("meta", [{"CLASSES": (1, 2)}, {"CLASSES": ()}, {}, 5])
def test_classes_that_are_no_names_are_not_read(tmp_path, meta):
    path = checkpoint(tmp_path, {"x": np.ones(2)}, meta=meta)
    assert "checkpoint.classes" not in files.read(path).metadata


@pytest.mark.parametrize("names", ['["cat"]', '"cat"', "[1, 2]", "{"])
def test_other_numbers_of_classes_are_not_taken(names):
    config = ModelConfig(num_classes=3)
    assert mmdetection._categories(config, {"checkpoint.classes": names}) is None


def test_cocos_classes_have_cocos_ids(tmp_path):
    model = ModelConfig(num_classes=81)
    about = {"checkpoint.classes": json.dumps(Categories.coco().names)}
    assert mmdetection._categories(model, about) == Categories.coco()
    about = {"checkpoint.classes": json.dumps([str(i) for i in range(80)])}
    assert mmdetection._categories(model, about).ids == tuple(range(1, 81))


# Objects as MMEngine's checkpoints have them beside the state dict. None may be made.
NEWOBJ = build.name("mmengine.config.config", "ConfigDict") + b")\x81"
HISTORY = (
    build.name("mmengine.logging.history_buffer", "HistoryBuffer")
    + b")\x81"
    + build.mapping({"_log_history": build.call(build.name("numpy.core.multiarray", "scalar"))})
    + b"b"
)
OBJECTS = {
    "an object with a state": HISTORY,
    "a filled list": NEWOBJ + b"K\x05a(K\x05K\x06e",
    "a filled dict": NEWOBJ + b"K\x05K\x06s(K\x05K\x06u",
    "an object of keywords": build.name("collections", "deque") + b")}\x92",
    "a call of a call": build.call(build.call(build.name("os", "getcwd")), build.text("x")),
    "a path": build.call(build.name("pathlib", "PosixPath"), build.text("a"), build.text("b")),
    "a key": b"}" + build.call(build.name("enum", "Enum"), b"K\x05") + b"K\x05s",
    "a call of the system": build.call(build.name("os", "system"), build.text("touch marker")),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_beside_the_state_dict_are_skipped(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path, {"x": np.ones(2)}, message_hub=OBJECTS[kind], meta={"seed": 3})
    assert files.read(path).arrays["x"].tolist() == [1, 1]
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_in_the_state_dict_or_without_one_are_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    value = OBJECTS[kind]
    inside = build.mapping({"state_dict": build.mapping({"x": value})})
    for root in (build.mapping({"x": value}), value, inside):
        (tmp_path / "w.pth").write_bytes(build.zip_file(root, {}))
        with pytest.raises(ValueError, match=r"w.pth .*(needs \w+\.\w+|'x' is a dict|is a dict)"):
            files.read(tmp_path / "w.pth")
    assert not (tmp_path / "marker").exists()


def test_averages_and_counters_are_dropped(tmp_path):
    state = state_of(mmdetection, reduced(R50(4)), counters="backbone")
    averages = {f"ema_{name.replace('.', '_')}": array for name, array in state.items()}
    files.write(tmp_path / "w.safetensors", state | averages)
    num_counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert loading.load(tmp_path / "w.safetensors").report.num_arrays == len(state) - num_counters


@pytest.mark.parametrize("head", ["box_head", "mask_head"])
def test_one_box_or_one_mask_for_all_classes_is_recognised(tmp_path, head):
    config = reduced(R50(4))
    getattr(config.model, head).class_agnostic = True
    files.write(tmp_path / "w.safetensors", state_of(mmdetection, config))
    loaded = loading.load(tmp_path / "w.safetensors").config.model
    assert getattr(loaded, head) == getattr(config.model, head)


def other(**arrays):
    state = state_of(mmdetection, reduced(R50(4)))
    return state | {name.replace("__", "."): array for name, array in arrays.items()}


ONE = np.ones(1, np.float32)
OTHERS = {
    "a Cascade R-CNN, but not of 3 stages": other(roi_head__bbox_head__0__fc_cls__bias=ONE),
    "deformable": other(backbone__layer2__0__conv2__conv_offset__weight=ONE),
    "a transformer": other(backbone__stages__0__blocks__0__norm1__weight=ONE),
    "another kind of network": other(roi_head__point_head__fc1__weight=ONE),
    "coarse masks": other(roi_head__mask_head__fcs__0__weight=ONE),
    "MMDetection 1": {
        "backbone.conv1.weight": ONE,
        "rpn_head.rpn_cls.bias": ONE,
        "bbox_head.fc_cls.bias": ONE,
    },
    "without a box head": {"backbone.conv1.weight": ONE, "bbox_head.retina_cls.bias": ONE},
    "fc_reg.weight has shape": other(roi_head__bbox_head__fc_reg__bias=np.ones(4)),
    "conv_logits.weight has shape": other(roi_head__mask_head__conv_logits__bias=ONE),
    "missing rpn_head.rpn_reg.bias": {
        name: array for name, array in other().items() if name != "rpn_head.rpn_reg.bias"
    },
    "unexpected neck.extra": other(neck__extra=ONE),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks_and_broken_ones_are_named(tmp_path, kind):
    files.write(tmp_path / "w.safetensors", OTHERS[kind])
    with pytest.raises(ValueError, match=f"w.safetensors(.|\n)*{kind}"):
        loading.load(tmp_path / "w.safetensors")


def test_weights_without_a_class_are_refused_by_name(tmp_path):
    state = state_of(mmdetection, reduced(presets.mmdet_r50_fpn()))
    name = "roi_head.bbox_head.fc_cls.bias"
    files.write(tmp_path / "w.npz", state | {name: state[name][:1]})
    with pytest.raises(ValueError, match="w.npz: num_classes must be at least 2"):
        loading.load(tmp_path / "w.npz")
