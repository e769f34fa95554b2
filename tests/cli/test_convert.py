"""`maskrcnn-jax convert`: from every format to every other, and to torchvision if installed."""

import jax
import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.weights import download, files, loading, torchvision
from tests.weights import states

CATEGORIES = Categories((3, 9), ("cat", "dog"))


def small(config: ModelConfig) -> ModelConfig:
    return states.small(config, stem_channels=64)  # torchvision has no other stem.


def variables_of(config):
    return torchvision.from_state_dict(states.state_of(config), config)


@pytest.fixture(params=["masks", "boxes"])
def run(request, tmp_path, monkeypatch):
    """A run directory whose model has its own sizes, mean and anchors."""
    model = small(ModelConfig(num_classes=3, image_mean=(0.5, 0.5, 0.5)))
    model.backbone.norm, model.backbone.norm_eps = "batch", 1e-3
    if request.param == "boxes":
        model.mask_head = None
    config = Config(model=model)
    config.data.test_short_side, config.detection.score_threshold = 320, 0.25
    return pretend(tmp_path, monkeypatch, config)


def pretend(tmp_path, monkeypatch, config):
    """A run directory with random variables, and its content."""
    found = run_directory.Run(config, CATEGORIES, variables_of(config.model), 1)
    monkeypatch.setattr(run_directory, "load_run", lambda directory: found)
    (tmp_path / "run").mkdir()
    return str(tmp_path / "run"), found


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 13])
def test_other_channels_go_through_every_format(tmp_path, monkeypatch, capsys, count):
    mean, std = (tuple(start + 0.01 * i for i in range(count)) for start in (0.2, 0.1))
    config = Config(model=small(ModelConfig(num_classes=3, image_mean=mean, image_std=std)))
    config.data.image_dtype, config.data.shown_channels = "float32", (count - 1,)
    source, found = pretend(tmp_path, monkeypatch, config)
    for program, name in (("torchvision", "t.pth"), ("detectron2", "d.pkl"), ("mmdet", "m.pth")):
        assert convert(source, tmp_path / name, "--to", program) == 2
        told = capsys.readouterr().err
        assert f"{program} has no network with {count} channels of images; .npz holds any" in told
    for name in ("a.pth", "b.safetensors", "c.npz"):
        assert convert(source, tmp_path / name) == 0
        source = str(tmp_path / name)
        loaded = loading.load(source)
        assert loaded.config.model == config.model
        assert loaded.config.data.image_dtype == "float32"
        assert loaded.config.data.shown_channels == (count - 1,)
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, found.variables)


def test_from_a_run_through_every_format_and_back(run, tmp_path, capsys):
    source, (config, _, variables, _) = run
    for name in ("a.pth", "b.npz", "c.safetensors", "d.npz"):
        assert convert(source, tmp_path / name) == 0
        printed = capsys.readouterr().out
        assert (
            source in printed
            and "eps of the norms: 0.001, as the weights say" in printed
            and name in printed
        )
        assert ("set theirs to 0.001 in backbone" in printed) == (not name.endswith(".npz"))
        source = str(tmp_path / name)
    loaded = loading.load(source)
    assert loaded.categories == CATEGORIES
    assert loaded.config.model == config.model and loaded.config.detection == config.detection
    assert loaded.config.data.test_short_side == 320
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert (
        files.read(tmp_path / "a.pth").arrays.keys()
        == files.read(tmp_path / "c.safetensors").arrays.keys()
    )


def test_a_released_name(tmp_path, monkeypatch):
    config = small(presets.maskrcnn_resnet50_fpn())
    state = torchvision.to_state_dict(variables_of(config), config)
    files.write(tmp_path / "released.pth", state)
    monkeypatch.setattr(download, "fetch", lambda name: tmp_path / "released.pth")
    assert convert("COCO_V1", tmp_path / "w.npz") == 0
    loaded = loading.load(tmp_path / "w.npz")
    assert loaded.categories == Categories.torchvision_coco() and loaded.config.model == config


def test_a_file_that_is_there_stays_without_force(run, tmp_path, capsys):
    (tmp_path / "w.npz").write_text("precious")
    assert convert(run[0], tmp_path / "w.npz") == 2
    assert "--force" in capsys.readouterr().err and (tmp_path / "w.npz").read_text() == "precious"
    assert convert(run[0], tmp_path / "w.npz", "--force") == 0
    assert loading.load(tmp_path / "w.npz").categories == CATEGORIES


def test_a_suffix_that_says_nothing(run, tmp_path, capsys):
    assert convert(run[0], tmp_path / "w.bin") == 2
    assert ".npz, .pth, .safetensors" in capsys.readouterr().err


def test_what_torchvision_lacks_is_refused_and_nothing_is_written(run, tmp_path, capsys):
    run[1].config.model.backbone.stride_in_1x1 = True
    run[1].config.model.backbone.depth = 50
    run[1].variables.update(variables_of(run[1].config.model))
    assert convert(run[0], tmp_path / "w.pth") == 2
    assert "stride_in_1x1" in capsys.readouterr().err
    assert not (tmp_path / "w.pth").exists()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # torch's warnings differ between versions.
@pytest.mark.parametrize(
    "name, norm, suffix, options",
    [
        ("maskrcnn_resnet50_fpn", "frozen_batch", ".pth", ()),
        ("maskrcnn_resnet50_fpn", "batch", ".safetensors", ("--to", "torchvision")),
        ("maskrcnn_resnet50_fpn_v2", "batch", ".pth", ("--to", "torchvision")),
        ("fasterrcnn_resnet50_fpn", "batch", ".safetensors", ()),
        ("fasterrcnn_resnet50_fpn_v2", "batch", ".pth", ()),
    ],
)
def test_torchvision_loads_what_we_write(tmp_path, name, norm, suffix, options):
    pytest.importorskip("torch", reason="needs torch")
    from maskrcnn_jax.parity import reference

    from torchvision.models import detection  # isort: skip  (after the reference)

    config = presets.PRESETS[name](4)
    config.backbone.norm = norm
    state = torchvision.to_state_dict(variables_of(config), config)
    files.write(tmp_path / "in.pth", state)
    assert convert(tmp_path / "in.pth", tmp_path / f"out{suffix}", *options) == 0

    torch = reference.torch
    if suffix == ".pth":
        theirs = torch.load(tmp_path / "out.pth", weights_only=True)
    else:
        arrays = files.read(tmp_path / "out.safetensors").arrays
        theirs = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    if norm == "frozen_batch":
        model = reference.build(Config(model=config), state)
    else:
        build = getattr(detection, name)
        model = build(weights=None, weights_backbone=None, num_classes=4)
    model.load_state_dict(theirs, strict=True)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array.numpy(), state[name])
