"""The programs that a plan compiles, of a model that is a stand-in."""

import jax
import jax.numpy as jnp
import pytest

from maskrcnn_jax import sharding
from maskrcnn_jax.config import Config
from maskrcnn_jax.planning import programs, stages

BUCKET = 64, 96


class Sums:
    """Stands in for `MaskRCNN`: detects the sum of each image."""

    def __init__(self, config, detection, run):
        self.run = run

    def apply(self, variables, images, sizes, canvas):
        assert self.run.per_image is jax.vmap  # Detection maps over the images of one device.
        return self.run.per_image(lambda x: x.sum() + variables["bias"])(images.astype(float))


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(programs, "MaskRCNN", Sums)
    shapes = {"bias": jax.ShapeDtypeStruct((), jnp.float32)}
    monkeypatch.setattr(programs, "variable_shapes", lambda model: shapes)
    return Config(batch_size=4)


def mesh_of(count):
    return sharding.make_mesh(count, 4, jax.devices()[:count])


def test_detection_divides_the_images_and_repeats_the_variables(config):
    text = programs.lower(config, BUCKET, mesh_of(2), "detect").as_text()
    assert "tensor<4x64x96x3xui8>" in text and "tensor<2x64x96x3xui8>" in text
    assert "all_reduce" not in text and "all-reduce" not in text


def test_a_stage_is_lowered_alone(config, monkeypatch):
    asked = []

    def trace(model, variables, batch, program, stage):
        asked.append((program, stage, batch.images.shape))
        return jnp.sin, [jax.ShapeDtypeStruct((7,), jnp.float32)]

    monkeypatch.setattr(stages, "trace", trace)
    text = programs.lower(config, BUCKET, mesh_of(1), "train", "fpn").as_text()
    assert asked == [("train", "fpn", (4, *BUCKET, 3))]
    assert "stablehlo.sine" in text and "tensor<7xf32>" in text
