"""A toy backbone from this file alone: a config, a module and the stages of its layers."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import training
from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.modules import backbones
from maskrcnn_jax.modules.backbones import Backbone
from maskrcnn_jax.modules.extents import halve
from maskrcnn_jax.modules.layers import Conv, relu
from maskrcnn_jax.settings import settings
from tests.conftest import QUICK_COMPILE, random_variables
from tests.data.test_toy_transform import darken, first_batch, paste_another
from tests.test_model import KEY


@settings
class ToyConfig:
    """Every stage is one convolution of stride 2."""

    width: int = 8
    frozen_stages: int = 0


class Toy(nn.Module):
    """Images to C2 to C5."""

    config: ToyConfig
    dtype: str
    run: object

    @nn.compact
    def __call__(self, images, canvas):
        features, x, extent = {}, images, canvas
        for level in range(1, 6):
            extent = halve(extent)
            x = relu(Conv(self.config.width, 3, stride=2, name=f"stage{level}")(x), extent)
            x = jax.lax.stop_gradient(x) if level <= self.config.frozen_stages else x
            features[level] = x
        return {level: features[level] for level in (2, 3, 4, 5)}


def channels(config):
    return dict.fromkeys((2, 3, 4, 5), config.width)


def stage_of(layer):
    return int(layer.removeprefix("stage"))


@pytest.fixture
def toy(tiny, monkeypatch):
    kind = Backbone(Toy, stage_of, channels, lambda config: 5)
    monkeypatch.setitem(backbones.BACKBONES, ToyConfig, kind)
    config = dataclasses.replace(tiny.model.config)
    config.__dict__["_frozen"] = False
    config.__dict__["backbone"] = ToyConfig(frozen_stages=2)
    return config


def test_a_toy_backbone_trains_on_a_toy_data_set_with_toy_transforms(toy):
    config = Config(model=toy, optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=0))
    model = MaskRCNN(toy)
    variables = random_variables(model)
    optimizer = training.make_optimizer(config, variables["params"])
    state = training.create_state(variables, optimizer)
    step = partial(training.train_step, model=model, optimizer=optimizer)
    before = variables["params"]["backbone"]
    program = jax.jit(step, compiler_options=QUICK_COMPILE)
    batch = first_batch(added={"darken": darken, "paste": paste_another})
    state, metrics = program(state, jax.tree.map(jnp.asarray, batch), KEY)
    assert np.isfinite(metrics["loss"])
    for name, layer in state.params["backbone"].items():
        moved = not np.array_equal(layer["kernel"], before[name]["kernel"])
        assert moved == (stage_of(name) > 2), name


def test_frozen_layers_follow_the_stages(toy):
    assert backbones.is_frozen(toy.backbone, "stage2")
    assert not backbones.is_frozen(toy.backbone, "stage3")


def test_layers_count_down_to_the_last(toy):
    assert [backbones.layers_above(toy.backbone, f"stage{i}") for i in (1, 5, 6)] == [5, 1, 0]
