"""Written weights come back: variables, config and categories."""

import jax
import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config, DetectionConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import (
    files,
    loading,
    saving,
    torchvision,
)
from tests.weights.states import assert_equal, small, state_of


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors"])
def test_what_we_save_comes_back_with_all_that_belongs_to_it(tmp_path, suffix):
    config = Config(model=small(presets.maskrcnn_resnet50_fpn(3), stem_channels=64))
    config.model.rpn.anchor_sizes = (8, 16, 32, 64, 128)
    config.backbone_weights = "somewhere/else.npz"
    config.detection = DetectionConfig(score_threshold=0.3, num_detections=7)
    config.execution.rematerialise = True
    config.data.test_short_side, config.data.test_buckets = 320, ((320, 320), (320, 448))
    categories = Categories((5, 17), ("cat", "dog"))
    variables = torchvision.from_state_dict(state_of(config.model), config.model)
    saving.save(tmp_path / f"w{suffix}", config, variables, categories)
    loaded = loading.load(tmp_path / f"w{suffix}")
    assert_equal(loaded.variables, variables)
    assert loaded.categories == categories
    assert loaded.config.model.rpn.anchor_sizes == (8, 16, 32, 64, 128)
    assert loaded.config.model == config.model and loaded.config.detection == config.detection
    assert loaded.config.backbone_weights is None
    assert loaded.config.execution == Config().execution  # A file does not store this.
    assert loaded.config.data == config.data


def test_a_model_torchvision_lacks_travels_as_npz_only(tmp_path, tiny):
    config, variables = Config(model=tiny.model.config), jax.device_get(tiny.variables)
    for suffix in (".pth", ".safetensors"):
        with pytest.raises(ValueError, match='norm "group".*npz'):
            saving.save(tmp_path / f"w{suffix}", config, variables, None)
    saving.save(tmp_path / "w.npz", config, variables, None)
    loaded = loading.load(tmp_path / "w.npz")
    assert loaded.config.model == config.model and "group norm" in loaded.report.architecture
    assert_equal(loaded.variables, variables)
    with pytest.raises(ValueError, match="torchvision's names.*'group'"):
        files.write(tmp_path / "w.pth", state_of(small(presets.maskrcnn_resnet50_fpn(4))))
        loading.load(tmp_path / "w.pth", config.model)


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors"])
def test_faster_rcnn_travels_in_every_format(tmp_path, suffix):
    config = Config(model=small(presets.fasterrcnn_resnet50_fpn_v2(3), stem_channels=64))
    variables = torchvision.from_state_dict(state_of(config.model), config.model)
    saving.save(tmp_path / f"w{suffix}", config, variables, None)
    loaded = loading.load(tmp_path / f"w{suffix}")
    assert loaded.config.model == config.model and loaded.config.model.mask_head is None
    assert "mask_head" not in loaded.variables["params"]
    # The backbone has 18 layers, so the name of no released architecture fits.
    assert "fasterrcnn_resnet50_fpn_v2" not in loaded.report.architecture
    assert loaded.report.architecture.startswith("Faster R-CNN with ResNet-18-FPN")
    assert_equal(loaded.variables, variables)


def test_a_model_of_four_channels_is_saved_and_loaded(tmp_path):
    config = Config(
        model=small(ModelConfig(num_classes=3, image_mean=(0.5,) * 4, image_std=(1.0,) * 4))
    )
    variables = torchvision.from_state_dict(state_of(config.model), config.model)
    saving.save(tmp_path / "w.npz", config, variables, None)
    loaded = loading.load(tmp_path / "w.npz")
    assert loaded.config.model == config.model
    assert loaded.variables["params"]["backbone"]["conv1"]["kernel"].shape == (7, 7, 4, 4)
    assert_equal(loaded.variables, variables)


def test_variables_are_written_as_float32_and_may_be_emptied(monkeypatch):
    written = {}
    monkeypatch.setattr(files, "write", lambda path, arrays, text: written.update(arrays))
    monkeypatch.setattr(torchvision, "check_can_build", lambda config: None)  # Of full size.
    model = small(presets.maskrcnn_resnet50_fpn(3))
    variables = torchvision.from_state_dict(state_of(model), model)
    variables["params"]["fpn"]["lateral2"]["kernel"] = np.ones((1, 1, 4, 8))
    saving.save("a.npz", Config(model=model), variables, None)
    assert {x.dtype for x in written.values()} == {np.dtype(np.float32)}
    assert "params/fpn/lateral2/kernel" in written
    saving.save("b.pth", Config(model=model), variables, None, consume=True)
    assert jax.tree.leaves(variables) == []
    assert "backbone.fpn.inner_blocks.0.0.weight" in written
