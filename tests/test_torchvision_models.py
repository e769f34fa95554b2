"""The functions with torchvision's names: the weights that they load, and errors for others."""

import jax
import numpy as np
import pytest

import maskrcnn_jax
from maskrcnn_jax import presets, torchvision_models, training
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.weights import download, files, torchvision
from tests.weights.states import small, state_of, with_counters

FUNCTIONS = {name: getattr(maskrcnn_jax, name) for name in presets.PRESETS}


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """Gives all architectures few channels."""
    for name, build in dict(presets.PRESETS).items():

        def make(num_classes: int = 91, build=build) -> ModelConfig:
            return small(build(num_classes), depth=50)

        monkeypatch.setitem(presets.PRESETS, name, make)


@pytest.fixture
def write(tmp_path):
    def write(name, num_classes=91, depth=50, counted=False):
        config = presets.PRESETS[name](num_classes)
        config.backbone.depth = depth
        state = state_of(config)
        files.write(tmp_path / "weights.pth", with_counters(state) if counted else state)
        return tmp_path / "weights.pth", state

    return write


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_path_gives_a_detector(write, name, capfd):
    path, state = write(name)
    detector = FUNCTIONS[name](weights=path)
    config = detector.model.config
    assert (
        config.num_classes == 91
        and config.backbone.norm_eps == 1e-5
        and config.backbone.frozen_stages == 2
    )
    assert config.backbone.norm == ("batch" if name.endswith("v2") else "frozen_batch")
    assert detector.categories == Categories.torchvision_coco()
    assert detector.data == DataConfig()
    back = torchvision.to_state_dict(detector.variables, config)
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array)
    assert capfd.readouterr() == ("", "")


def test_counters_mark_a_norm_that_was_trained(write):
    path, _ = write("maskrcnn_resnet50_fpn", counted=True)
    detector = maskrcnn_jax.maskrcnn_resnet50_fpn(path, norm_eps=1e-3)
    backbone = detector.model.config.backbone
    assert backbone.norm == "batch" and backbone.norm_eps == 1e-3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_coco_v1_is_the_released_file_of_the_function(write, name, monkeypatch):
    path, _ = write(name)
    asked = []
    monkeypatch.setattr(download, "fetch", lambda file_name: asked.append(file_name) or path)
    assert FUNCTIONS[name](weights="COCO_V1").model.config.num_classes == 91
    assert asked == [download.DETECTORS[name]]


def test_other_classes_start_anew_and_are_reported(write, capfd):
    path, _ = write("maskrcnn_resnet50_fpn")
    detector = maskrcnn_jax.maskrcnn_resnet50_fpn(weights=path, num_classes=3)
    assert detector.model.config.num_classes == 3
    assert detector.categories == Categories((1, 2), ("class 1", "class 2"))
    out, err = capfd.readouterr()
    assert out == "" and str(path) in err and "roi_heads.box_predictor.cls_score.weight" in err


@pytest.mark.parametrize(
    "function, of, depth, call",
    [
        (
            "maskrcnn_resnet50_fpn",
            "maskrcnn_resnet50_fpn_v2",
            50,
            r"maskrcnn_resnet50_fpn_v2\(weights",
        ),
        (
            "maskrcnn_resnet50_fpn_v2",
            "maskrcnn_resnet50_fpn",
            50,
            r"maskrcnn_resnet50_fpn\(weights",
        ),
        ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", 101, r"Detector.from_weights"),
        (
            "maskrcnn_resnet50_fpn",
            "fasterrcnn_resnet50_fpn",
            50,
            r"fasterrcnn_resnet50_fpn\(weights",
        ),
        (
            "fasterrcnn_resnet50_fpn_v2",
            "maskrcnn_resnet50_fpn_v2",
            50,
            r"maskrcnn_resnet50_fpn_v2\(",
        ),
    ],
)
def test_a_file_of_another_architecture_names_the_call_that_fits(write, function, of, depth, call):
    path, _ = write(of, depth=depth)
    with pytest.raises(
        ValueError, match=f"{path} does not fit {function}: it looks like .*; call {call}"
    ):
        FUNCTIONS[function](weights=path)


def test_detector_from_weights_takes_what_the_functions_do_not(write):
    path, _ = write("maskrcnn_resnet50_fpn", num_classes=4, depth=18)
    detector = maskrcnn_jax.Detector.from_weights(path)
    assert detector.model.config.backbone.depth == 18
    assert detector.categories == Categories.numbered(3)
    path, _ = write("fasterrcnn_resnet50_fpn_v2", counted=True)
    detector = maskrcnn_jax.Detector.from_weights(path)
    assert detector.model.config == freeze(presets.PRESETS["fasterrcnn_resnet50_fpn_v2"]())


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_neither_weights_nor_classes(function):
    with pytest.raises(ValueError, match='"COCO_V1" or a path.*num_classes'):
        function()


@pytest.mark.parametrize("weights", ["V2_COCO_V1", "coco_v1", "absent.pth"])
def test_an_unknown_name_lists_what_is_accepted(weights):
    expected = f'{weights}; expected such a path or "COCO_V1" or "DEFAULT"$'
    with pytest.raises(FileNotFoundError, match=expected):
        maskrcnn_jax.maskrcnn_resnet50_fpn(weights=weights)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_random_weights_train_from_the_stem_on(function, monkeypatch):
    seeds = []
    monkeypatch.setattr(training, "init_variables", lambda model, seed: seeds.append(seed) or {})
    detector = function(num_classes=3, seed=7, norm_eps=1e-4)
    config, backbone = detector.model.config, detector.model.config.backbone
    assert config.num_classes == 3 and backbone.frozen_stages == 0
    assert backbone.norm == "batch" and backbone.norm_eps == 1e-4
    # Each part with a norm has the given eps.
    assert config.fpn.norm_eps == (1e-4 if config.fpn.norm == "batch" else 1e-5)
    assert seeds == [7] and detector.categories == Categories.numbered(2)


@pytest.mark.slow
def test_the_seed_decides_the_random_weights():
    a, b, c = (
        torchvision_models.maskrcnn_resnet50_fpn(num_classes=3, seed=seed) for seed in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    kernels = [x.variables["params"]["box_head"]["cls_score"]["kernel"] for x in (a, c)]
    assert not np.array_equal(*kernels)
