"""Plans of a tiny step on simulated devices: memory, operations and collectives."""

import importlib.util
import math

import jax
import pytest

from maskrcnn_jax import training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import pipeline
from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
)
from maskrcnn_jax.modules import resnet
from maskrcnn_jax.planning import programs
from maskrcnn_jax.planning.devices import topology
from maskrcnn_jax.planning.plan import make_plan
from maskrcnn_jax.variables import variable_shapes
from tests.conftest import QUICK_COMPILE

BUCKET = 64, 96
ONE_BLOCK_PER_STAGE = (1, 1, 1, 1), False


def tiny_config():
    model = ModelConfig(
        num_classes=4,
        backbone=ResNetConfig(depth=18, stem_channels=8),
        fpn=FPNConfig(channels=16),
        box_head=BoxHeadConfig(num_layers=1, features=32),
        mask_head=MaskHeadConfig(num_convs=1, channels=16),
    )
    model.rpn.num_samples = model.roi.num_samples = 16
    model.rpn.num_candidates = model.rpn.num_proposals = 20
    config = Config(model=model, batch_size=4)
    config.data.max_instances, config.data.buckets = 6, (BUCKET,)
    return config


@pytest.fixture(scope="module")
def plan():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.DEPTHS, 18, ONE_BLOCK_PER_STAGE)  # Halves the compilation time.
        return make_plan(tiny_config(), jax.devices()[:2], BUCKET, QUICK_COMPILE)


def num_bytes(tree):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def variables():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.DEPTHS, 18, ONE_BLOCK_PER_STAGE)
        return variable_shapes(tiny_config().model)


def test_memory_is_that_of_the_state_and_of_a_share_of_the_batch(plan, variables):
    config = tiny_config()
    frozen = training.frozen_mask(variables["params"], config.model.backbone)
    pairs = zip(*map(jax.tree.leaves, (variables["params"], frozen)), strict=True)
    momentum = [x for x, is_frozen in pairs if not is_frozen]
    state = num_bytes(variables) + num_bytes(momentum)
    share = config.batch_size // 2 * (64 * 96 * 3 + 6 * 112 * 112)
    assert plan.memory.arguments == pytest.approx(state + share, rel=0.01)
    assert plan.memory.reused == pytest.approx(state, rel=0.01)
    assert plan.memory.outputs == pytest.approx(state, rel=0.01)
    assert plan.memory.temporaries > num_bytes(variables["params"])
    assert plan.memory.peak < 2 * state + share + plan.memory.temporaries
    assert plan.device_memory is None


def test_gradients_are_added_up_and_nothing_is_gathered(plan, variables):
    (collective,) = plan.collectives
    trained = num_bytes(variables["params"])
    assert collective.kind == "all-reduce" and collective.in_loops == 0
    assert 0.8 * trained < collective.bytes < 1.2 * trained


def test_work_is_that_of_the_network_and_a_bit_more(plan):
    assert plan.flops / 2 == pytest.approx(plan.model_flops.training, rel=0.5)
    assert plan.traffic > plan.memory.peak


def test_what_was_planned(plan):
    assert plan.device == "cpu" and plan.num_devices == 2 and plan.mesh["data"] == 2
    assert plan.bucket == BUCKET and plan.batch_size == 4
    assert plan.trace_seconds > 0 and plan.compile_seconds > 0


def test_the_batch_is_what_the_pipeline_delivers():
    config = tiny_config()
    config.data.short_sides, config.data.max_long_side, config.data.shapes_image_size = (
        (48,),
        64,
        64,
    )
    dataset = ShapesDataset(8, 64, 0)
    for config.data.mask_store in ("crop", "full"):
        batch = next(pipeline.train_batches(dataset, config.data, batch_size=4, seed=0))
        assert batch_shapes(config, BUCKET, 4) == jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch
        )


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(ValueError, match="batch_size=4 cannot be divided among 3 devices"):
        make_plan(tiny_config(), jax.devices()[:3], BUCKET)


@pytest.mark.parametrize(
    "message, error", [("RESOURCE_EXHAUSTED: 20G of 16G", MemoryError), ("INTERNAL", RuntimeError)]
)
def test_a_step_that_does_not_fit(message, error, monkeypatch):
    class Lowered:
        def compile(self, options):
            raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(programs, "lower", lambda *arguments: Lowered())
    with pytest.raises(error, match=message):
        make_plan(tiny_config(), jax.devices()[:2], BUCKET)


def test_without_libtpu_there_is_no_topology(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'maskrcnn-jax\[tpu\]'"):
        topology("v5e:2x2")


def test_an_unknown_topology_is_refused():
    pytest.importorskip("libtpu", reason="libtpu is not installed: the extra tpu has it")
    with pytest.raises(ValueError, match="v5e:3x17.*v5e:16x16"):
        topology("v5e:3x17")


@pytest.mark.slow  # The TPU compiler takes minutes even for this model.
def test_a_step_for_tpus_gathers_nothing(monkeypatch):
    pytest.importorskip("libtpu", reason="libtpu is not installed: the extra tpu has it")
    monkeypatch.setitem(resnet.DEPTHS, 18, ONE_BLOCK_PER_STAGE)
    plan = make_plan(tiny_config(), topology("v5e:2x2"), BUCKET)
    assert plan.device == "TPU v5 lite" and plan.device_memory == 16 << 30
    assert [(c.kind, c.in_loops) for c in plan.collectives] == [("all-reduce", 0)]
    assert 0 < plan.memory.peak < 1 << 30
