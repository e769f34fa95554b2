"""Weights of whole detectors: fitting arrays are loaded, misfits are named, and both reported."""

import hashlib
import json
import re

import numpy as np
import pytest

from maskrcnn_jax import presets, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.weights import (
    download,
    files,
    loading,
    model_metadata,
    saving,
    torchvision,
)
from tests.weights.states import assert_equal, small, state_of, with_counters

v1, v2 = presets.maskrcnn_resnet50_fpn, presets.maskrcnn_resnet50_fpn_v2

HEADS = {
    f"roi_heads.{layer}.{kind}"
    for layer in (
        "box_predictor.cls_score",
        "box_predictor.bbox_pred",
        "mask_predictor.mask_fcn_logits",
    )
    for kind in ("weight", "bias")
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "config, counted",
    [
        (small(v1(91)), False),
        (small(v1(3, norm="batch")), True),
        (small(v2(3), depth=50), True),
        (small(presets.fasterrcnn_resnet50_fpn(91)), False),
        (small(presets.fasterrcnn_resnet50_fpn_v2(3), depth=50), True),
    ],
    ids=["v1", "v1-batch-norm", "v2", "faster-v1", "faster-v2"],
)
def test_the_architecture_of_a_foreign_file_is_inferred(write, config, counted, suffix):
    state = state_of(config)
    path = write(with_counters(state) if counted else state, f"weights{suffix}")
    loaded = loading.load(path)
    assert loaded.config.model == config
    assert_equal(loaded.variables, torchvision.from_state_dict(state, config))
    assert loaded.report.num_arrays == len(state)
    assert loaded.report.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_old_names_are_read_as_the_present_ones(write):
    config = small(v1(3))
    state = state_of(config)
    old = {}
    for name, array in state.items():
        name = re.sub(r"_blocks\.(\d)\.0\.", r"_blocks.\1.", name).replace(
            "rpn.head.conv.0.0.", "rpn.head.conv."
        )
        name = re.sub(
            r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", name
        )
        old[name] = array
    for name in (
        "backbone.fpn.inner_blocks.0.weight",
        "rpn.head.conv.weight",
        "roi_heads.mask_head.mask_fcn1.weight",
    ):
        assert name in old
    loaded = loading.load(write(old))
    assert_equal(loaded.variables, torchvision.from_state_dict(state, config))
    # Weights and biases of eight convolutions of the FPN, one of the RPN, four of the mask head.
    assert len(loaded.report.renamed) == 26
    assert "old names: 26" in str(loaded.report)


@pytest.mark.parametrize("norm, counted", [("batch", False), ("frozen_batch", True)])
def test_either_batch_norm_is_loaded_into_the_other(write, norm, counted):
    config = small(v1(3, norm))
    state = state_of(config)
    path = write(with_counters(state) if counted else state)
    assert_equal(loading.load(path, config).variables, torchvision.from_state_dict(state, config))
    ours = path.with_suffix(".npz")
    other = loading.load(path)
    assert other.config.model.backbone.norm != norm
    saving.save(ours, other.config, other.variables, None)
    assert_equal(loading.load(ours, config).variables, torchvision.from_state_dict(state, config))


def test_every_misfit_is_listed_in_one_error_that_names_the_file(write):
    config = small(v1(3))
    state = state_of(config)
    del state["rpn.head.conv.0.0.bias"]
    del state["backbone.body.layer1.0.conv1.weight"]
    state["backbone.body.extra"] = np.zeros(2, np.float32)
    state["roi_heads.box_predictor.bbox_pred.bias"] = np.zeros(11, np.float32)
    path = write(state)
    with pytest.raises(ValueError) as error:
        loading.load(path)
    for part in (
        str(path),
        "missing rpn.head.conv.0.0.bias",
        "missing backbone.body.layer1.0.conv1.weight",
        "unexpected backbone.body.extra",
        "roi_heads.box_predictor.bbox_pred.bias has shape (11,), expected (12,)",
    ):
        assert part in str(error.value)
    assert str(error.value).count("\n") == 4


def test_a_file_of_another_architecture_says_what_it_looks_like(write):
    path = write(state_of(small(v1(3), depth=34)))
    with pytest.raises(
        ValueError,
        match="does not fit .*ResNet-18-FPN.*looks like .*ResNet-34-FPN.*frozen batch norm",
    ):
        loading.load(path, small(v1(3)))


def test_another_number_of_classes_starts_the_heads_anew(write):
    state = state_of(small(v1(6)))
    metadata = model_metadata.encode(Config(model=small(v1(6))), Categories.numbered(5))
    path = write(state, metadata=metadata)
    loaded = loading.load(path, num_classes=3, seed=5)
    config = small(v1(3))
    assert loaded.config.model == config and loaded.categories is None
    assert set(loaded.report.reinitialised) == HEADS
    assert all(name in str(loaded.report) for name in HEADS) and "6 classes" in str(loaded.report)
    assert loaded.report.num_arrays == len(state) - 6

    back = torchvision.to_state_dict(loaded.variables, config)
    for name in state.keys() - HEADS:
        np.testing.assert_array_equal(back[name], state[name], err_msg=name)
    bound = 16**-0.5  # The bound of PyTorch's default initialisation for 16 inputs.
    scores = np.abs(back["roi_heads.box_predictor.cls_score.weight"])
    assert scores.shape == (3, 16) and 0.8 * bound < scores.max() <= bound


@pytest.mark.slow
def test_new_heads_begin_as_those_of_a_new_model(write):
    config = small(v1(3))
    loaded = loading.load(write(state_of(small(v1(6)))), num_classes=3, seed=5)
    ours = torchvision.to_state_dict(loaded.variables, config)
    initial = torchvision.to_state_dict(training.init_variables(MaskRCNN(config), seed=5), config)
    for name in HEADS:
        np.testing.assert_array_equal(ours[name], initial[name], err_msg=name)


def test_the_same_number_of_classes_keeps_them(write):
    path = write(state_of(small(v1(6))))
    report = loading.load(path, num_classes=6).report
    assert report.reinitialised == () and "re-init" not in str(report)


def test_heads_that_contradict_each_other_are_an_error_whatever_the_number(write):
    state = state_of(small(v1(6)))
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"mask_fcn_logits.bias has shape \(3,\), expected \(6,\)"):
        loading.load(write(state), num_classes=3)


@pytest.mark.parametrize("num_classes", [1, -3])
def test_a_number_without_an_object_is_refused(write, num_classes):
    with pytest.raises(ValueError, match="at least 2"):
        loading.load(write(state_of(small(v1(3)))), num_classes=num_classes)


@pytest.fixture
def released(write, monkeypatch):
    """A file that the table of released names knows by its digest."""
    path = write(state_of(small(v1(3))))
    name = f"any-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(download.DETECTORS, "maskrcnn_resnet50_fpn", name)
    return path


def test_the_eps_of_a_released_file_stays_with_what_is_saved(released, tmp_path):
    loaded = loading.load(released)
    assert loaded.config.model.backbone.norm_eps == 0.0
    assert "eps of the norms: 0, as the released" in str(loaded.report)
    saving.save(tmp_path / "ours.npz", loaded.config, loaded.variables, None)
    loaded = loading.load(tmp_path / "ours.npz")
    assert loaded.config.model.backbone.norm_eps == 0.0
    assert "as the weights say" in str(loaded.report)
    trained = small(v1(3, "batch"))
    assert loading.load(tmp_path / "ours.npz", trained).config.model.backbone.norm_eps == 1e-5


def test_the_eps_of_the_argument_and_of_the_configuration(released):
    config = small(v1(3))
    assert loading.load(released, config).config.model.backbone.norm_eps == 0.0
    config.backbone.norm_eps = 1e-3
    assert loading.load(released, config).config.model.backbone.norm_eps == 1e-3
    loaded = loading.load(released, config, norm_eps=1e-4)
    assert loaded.config.model.backbone.norm_eps == 1e-4 and "as given" in str(loaded.report)


def test_the_report_says_the_eps_of_each_part_where_they_differ(write):
    config = small(v2(3))
    config.fpn.norm_eps = 1e-3
    report = str(loading.load(write(with_counters(state_of(config))), config).report)
    assert "eps of the norms of backbone: 1e-05, PyTorch's default\n" in report
    assert "eps of the norms of fpn: 0.001, as the configuration says\n" in report


class TestCategories:
    def test_91_columns_are_cocos_own_ids(self, write):
        categories = loading.load(write(state_of(small(v1(91))))).categories
        assert len(categories) == 90 and categories.ids == tuple(range(1, 91))
        assert (categories.name(1), categories.name(44), categories.name(90)) == (
            "person",
            "bottle",
            "toothbrush",
        )
        gaps = [i for i in categories.ids if categories.name(i) == "N/A"]
        assert gaps == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]

    def test_of_another_count_nobody_knows_them(self, write):
        assert loading.load(write(state_of(small(v1(90))))).categories is None

    def test_a_file_of_ours_with_91_columns_says_it_or_nobody_does(self, write):
        config = small(v1(91))
        path = write(state_of(config), metadata=model_metadata.encode(Config(model=config), None))
        assert loading.load(path).categories is None

    def test_a_file_that_carries_them_wins(self, write):
        mine = Categories(tuple(range(101, 191)), tuple(map(str, range(90))))
        metadata = {model_metadata.CATEGORIES: str(mine.to_json()).replace("'", '"')}
        assert loading.load(write(state_of(small(v1(91))), metadata=metadata)).categories == mine

    def test_as_many_as_the_model_has(self, write):
        metadata = {model_metadata.CATEGORIES: '[{"id": 1, "name": "cat"}]'}
        with pytest.raises(ValueError, match="3 classes with background, but 1 categories"):
            loading.load(write(state_of(small(v1(3))), metadata=metadata))


def test_our_own_names_without_a_configuration_need_one(tmp_path):
    config = small(v1(3))
    variables = torchvision.from_state_dict(state_of(config), config)
    saving.save(tmp_path / "w.npz", Config(model=config), variables, None)
    files.write(tmp_path / "bare.npz", files.read(tmp_path / "w.npz").arrays)
    with pytest.raises(ValueError, match="does not say"):
        loading.load(tmp_path / "bare.npz")
    assert_equal(loading.load(tmp_path / "bare.npz", config).variables, variables)


@pytest.mark.parametrize(
    "metadata",
    [
        {model_metadata.CONFIG: "{"},
        {model_metadata.CONFIG: '{"model": {"depht": 18}}'},
        {model_metadata.CONFIG: '{"model": {"rpn": 3}}'},
        {model_metadata.CONFIG: "[]"},
        {model_metadata.CONFIG: "[" * 100_000},
        {model_metadata.CATEGORIES: '[{"id": 1}]'},
        {model_metadata.CATEGORIES: '[{"id": [1], "name": "cat"}]'},
    ],
)
def test_broken_metadata_is_refused_with_the_name_of_the_file(write, metadata):
    path = write(state_of(small(v1(3))), metadata=metadata)
    with pytest.raises(ValueError, match=f"{path}.*{next(iter(metadata))}"):
        loading.load(path)


@pytest.mark.parametrize("named_by", ["ours", "torchvision"])
@pytest.mark.parametrize(
    "model, field",
    [
        ({"backbone": {"depth": 19}}, "model.backbone.depth"),
        ({"backbone": {"depth": "18"}}, "model.backbone.depth"),
        ({"backbone": {"norm": "foo"}}, "model.backbone.norm"),
        ({"backbone": {"norm": "group", "stem_channels": 8}}, "model.backbone.stem_channels"),
        ({"backbone": None}, "model.backbone"),
        ({"dtype": "float99"}, "model.dtype"),
        ({"backbone": {"stem_channels": 0}}, "model.backbone.stem_channels"),
        ({"mask_head": {"num_convs": 1_000_000_000}}, "model.mask_head.num_convs"),
        ({"backbone": {"norm_eps": float("nan")}}, "model.backbone.norm_eps"),
        ({"rpn": {"anchor_sizes": [32]}}, "model.rpn.anchor_sizes"),
        ({"roi": {"sampling_ratio": 1_000_000_000}}, "model.roi.sampling_ratio"),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_is_named_with_the_file(tmp_path, named_by, model, field):
    name = {
        "ours": "params/box_head/cls_score/bias",
        "torchvision": "roi_heads.box_predictor.cls_score.bias",
    }[named_by]
    path = tmp_path / "weights.npz"
    files.write(
        path,
        {name: np.zeros(81, np.float32)},
        {model_metadata.CONFIG: json.dumps({"model": model})},
    )
    with pytest.raises(
        ValueError,
        match=f"{path} .*metadata '{model_metadata.CONFIG}' is broken: .*{field} must be",
    ):
        loading.load(path)


def test_a_setting_of_detection_that_cannot_be_is_named(write):
    metadata = {model_metadata.CONFIG: json.dumps({"detection": {"num_detections": 10**30}})}
    path = write(state_of(small(v1(3))), metadata=metadata)
    with pytest.raises(ValueError, match=f"{path} .*detection.num_detections must be"):
        loading.load(path)


def test_names_are_said_to_be_those_that_a_file_has(tmp_path):
    config = ModelConfig(backbone=ResNetConfig(depth=18, stem_channels=4))
    config.roi.sampling_ratio = -1
    files.write(
        tmp_path / "weights.npz", {"params/box_head/cls_score/bias": np.zeros(81, np.float32)}
    )
    with pytest.raises(
        ValueError, match="weights.npz has our names, but sampling_ratio must be positive"
    ):
        loading.load(tmp_path / "weights.npz", config)


@pytest.mark.parametrize("has_masks", [True, False])
def test_masks_cannot_be_added_or_left_out(write, has_masks):
    with_masks = small(v1(3))
    without = small(presets.fasterrcnn_resnet50_fpn(3))
    wanted, given = (with_masks, without) if has_masks else (without, with_masks)
    with pytest.raises(ValueError, match="roi_heads.mask_head.0.0.weight"):
        loading.load(write(state_of(given)), wanted)


def test_a_run_directory_is_loaded_with_its_experiment(tmp_path, monkeypatch):
    config = Config(model=small(v1(3)), num_steps=7)
    variables = torchvision.from_state_dict(state_of(config.model), config.model)
    categories = Categories((3, 9), ("cat", "dog"))
    run = run_directory.Run(config, categories, variables | {"batch_stats": {}}, 7)
    monkeypatch.setattr(run_directory, "load_run", lambda directory: run)
    loaded = loading.load(tmp_path)
    assert loaded.config == config and loaded.categories == categories
    assert_equal(loaded.variables, variables)
    assert str(tmp_path) in str(loaded.report) and "sha256" not in str(loaded.report)
    monkeypatch.setattr(loading, "_initial", lambda config, paths, seed: {})
    assert set(loading.load(tmp_path, num_classes=5).report.reinitialised) == {
        f"{layer}/{kind}"
        for layer in ("box_head/cls_score", "box_head/bbox_pred", "mask_head/logits")
        for kind in ("kernel", "bias")
    }
