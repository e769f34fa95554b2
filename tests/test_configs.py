"""All experiments in configs/ at full size, by shapes only."""

import importlib
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from maskrcnn_jax import config_check, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.planning.plan import make_plan
from maskrcnn_jax.settings import differences, freeze, from_dict, to_dict
from maskrcnn_jax.weights import detectron2
from tests.conftest import QUICK_COMPILE

NAMES = sorted(path.stem for path in Path("configs").glob("*.py") if path.stem != "__init__")

# The others take as long to trace each.
FAST = "r50_fpn_1x"
QUICK = [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def get_config(name) -> Config:
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", QUICK)
def test_losses_gradients_and_detections_have_the_right_shapes(name):
    config = get_config(name)
    model = MaskRCNN(config.model, config.detection)
    batch = batch_shapes(config, config.data.buckets[-1], config.batch_size)
    variables = jax.eval_shape(model.init, jax.random.key(0), batch.images, batch.sizes)
    optimizer = training.make_optimizer(config, variables["params"])
    state = jax.eval_shape(lambda v: training.create_state(v, optimizer), variables)

    def step(state, batch, key):
        return training.train_step(state, batch, key, model=model, optimizer=optimizer)

    after, metrics = jax.eval_shape(step, state, batch, jax.random.key(0))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    stages = config.model.cascade.num_stages if config.model.cascade else 1
    assert sum(name.startswith("loss_") for name in metrics) == 3 + 2 * stages
    detections = jax.eval_shape(model.apply, variables, batch.images, batch.sizes)
    slots = config.detection.num_detections
    assert detections.boxes.shape == (config.batch_size, slots, 4)
    side = 2 * config.model.mask_head.resolution
    assert detections.masks.shape == (config.batch_size, slots, side, side)


@pytest.mark.parametrize("name", NAMES)
def test_buckets_are_multiples_of_32_and_hold_the_largest_images(name):
    data = get_config(name).data
    for height, width in data.buckets + data.test_buckets:
        assert height % 32 == width % 32 == 0
    assert max(max(bucket) for bucket in data.buckets) >= min(data.max_long_side, 448)


def test_coco_schedules_are_the_reference_ones():
    one, three, deep = (get_config(name) for name in ("r50_fpn_1x", "r50_fpn_3x", "r101_fpn_3x"))
    assert (one.num_steps, one.optimizer.decay_steps) == (90_000, (60_000, 80_000))
    assert (three.num_steps, three.optimizer.decay_steps) == (270_000, (210_000, 250_000))
    assert differences(three, deep) == ["model.backbone.depth: 50 -> 101"]
    for config in (one, three, deep):
        assert (config.batch_size, config.optimizer.learning_rate, config.model.num_classes) == (
            16,
            0.02,
            81,
        )


def test_the_long_schedules_are_100_epochs_from_random_weights():
    jitter, pasting = get_config("r50_fpn_lsj"), get_config("r50_fpn_copy_paste")
    assert differences(jitter, pasting) == ["data.copy_paste: 0.0 -> 1.0"]
    assert jitter.num_steps * jitter.batch_size == 100 * 118_000
    assert jitter.batch_size == 64 and jitter.execution.num_microbatches == 1
    assert jitter.weights is None and jitter.backbone_weights is None
    assert (jitter.data.jitter, jitter.data.jitter_side) == ((0.1, 2.0), 1024)
    model = jitter.model
    norms = (model.backbone.norm, model.fpn.norm, model.box_head.norm, model.mask_head.norm)
    assert set(norms) == {"batch"} and model.backbone.frozen_stages == 0
    for config in (jitter, pasting):
        config_check.check(config)
        entries = detectron2.entries(config.model)
        trained = sum(math.prod(x.shape) for x in entries if x.path[0] == "params")
        assert trained == 46_301_232


def test_lvis_has_detectron2s_schedule_and_parameters():
    config, coco = get_config("lvis_r50_fpn"), get_config("r50_fpn_3x")
    config_check.check(config)
    assert (config.num_steps, config.optimizer.decay_steps) == (180_000, (120_000, 160_000))
    assert (config.data.sampling, config.data.repeat_threshold) == ("repeat_factor", 0.001)
    assert (config.detection.score_threshold, config.detection.num_detections) == (1e-4, 300)
    trained = [
        sum(math.prod(x.shape) for x in detectron2.entries(x.model) if x.path[0] == "params")
        for x in (coco, config)
    ]
    # Each of the 1,123 further classes has a score, four deltas and a mask.
    assert trained[1] - trained[0] == 1123 * (5 * 1025 + 257)
    assert trained[1] == 50_387_202


@pytest.mark.slow
def test_a_step_for_lvis_takes_little_more_memory_than_one_for_coco():
    def peak(name):
        config = get_config(name)
        config.batch_size = 1
        return make_plan(config, jax.devices()[:1], (256, 320), QUICK_COMPILE).memory.peak

    coco, lvis = peak("r50_fpn_3x"), peak("lvis_r50_fpn")
    print(coco / 2**20, lvis / 2**20, lvis / coco)
    assert coco < lvis <= 1.3 * coco


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_json(name):
    config = get_config(name)
    assert freeze(from_dict(Config, to_dict(config))) == freeze(config)


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="RPNConfig has no field 'nms'"):
        from_dict(Config, {"model": {"rpn": {"nms": 0.7}}})
