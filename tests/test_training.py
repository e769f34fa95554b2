"""The optimizer with its schedule and masks, and the compilations of a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskrcnn_jax import execution, sharding, training
from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.data import pipeline
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ResNetConfig


def small_params():
    """One parameter in each stage that can be frozen, and a norm."""
    backbone = {
        name: {"kernel": jnp.ones(2)} for name in ("conv1", "layer1_0", "layer2_3", "layer4_1")
    }
    backbone["bn1"] = {"scale": jnp.ones(2), "bias": jnp.ones(2)}
    return {"backbone": backbone, "fpn": {"lateral2": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}}


def test_learning_rate_warms_up_then_steps_down():
    settings = OptimizerConfig(
        learning_rate=0.02, warmup_steps=10, warmup_factor=0.1, decay_steps=(20, 30)
    )
    # Twice the reference batch has twice the rate.
    rate = training.learning_rate(settings, batch_size=32, num_steps=100)
    expected = {0: 0.004, 5: 0.022, 10: 0.04, 19: 0.04, 20: 0.004, 30: 0.0004, 99: 0.0004}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5)


def test_learning_rate_without_warmup_starts_at_once():
    settings = OptimizerConfig(learning_rate=0.02, warmup_steps=0, decay_steps=())
    np.testing.assert_allclose(training.learning_rate(settings, 16, 100)(1), 0.02, rtol=1e-6)


def test_cosine_falls_to_zero_at_the_last_step():
    settings = OptimizerConfig(learning_rate=0.02, warmup_steps=0, schedule="cosine")
    rate = training.learning_rate(settings, 16, 100)
    np.testing.assert_allclose(
        [rate(1), rate(50), rate(100), rate(200)], [0.02 * 0.99975, 0.01, 0, 0], atol=1e-6
    )


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="linear"):
        training.learning_rate(OptimizerConfig(schedule="linear"), 16, 100)


@pytest.mark.parametrize(
    "frozen_stages, frozen",
    [
        (0, set()),
        (1, {"conv1", "bn1"}),
        (2, {"conv1", "bn1", "layer1_0"}),
        (3, {"conv1", "bn1", "layer1_0", "layer2_3"}),
        (5, {"conv1", "bn1", "layer1_0", "layer2_3", "layer4_1"}),
    ],
)
def test_frozen_stages_count_from_the_stem(frozen_stages, frozen):
    mask = training.frozen_mask(small_params(), ResNetConfig(frozen_stages=frozen_stages))
    assert {name for name, part in mask["backbone"].items() if all(jax.tree.leaves(part))} == frozen
    assert not any(jax.tree.leaves(mask["fpn"]))


def updates(config, gradients):
    params = small_params()
    optimizer = training.make_optimizer(config, params)
    result, _ = optimizer.update(gradients, optimizer.init(params), params)
    return result


def plain_config(**settings):
    config = Config(batch_size=16)
    config.optimizer = OptimizerConfig(
        learning_rate=1.0, warmup_steps=0, warmup_factor=1.0, **settings
    )
    return config


def test_sgd_adds_weight_decay_and_leaves_frozen_stages_alone():
    config = plain_config(weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, small_params())
    result = updates(config, zeros)
    np.testing.assert_allclose(result["fpn"]["lateral2"]["kernel"], -0.5)
    np.testing.assert_allclose(result["fpn"]["lateral2"]["bias"], -0.5)
    np.testing.assert_array_equal(result["backbone"]["layer1_0"]["kernel"], 0)


@pytest.mark.parametrize(
    "decay, bias, norm", [("all", -0.5, -0.5), ("not_norms", -0.5, 0.0), ("kernels", 0.0, 0.0)]
)
def test_weight_decay_can_spare_norms_and_biases(decay, bias, norm):
    config = plain_config(weight_decay=0.5, decay=decay)
    config.model.backbone.frozen_stages = 0
    result = updates(config, jax.tree.map(jnp.zeros_like, small_params()))
    np.testing.assert_allclose(result["fpn"]["lateral2"]["kernel"], -0.5)
    np.testing.assert_allclose(result["fpn"]["lateral2"]["bias"], bias)
    for name, values in result["backbone"]["bn1"].items():
        np.testing.assert_allclose(values, norm, err_msg=name)


def test_clipping_counts_only_what_trains():
    config = plain_config(weight_decay=0.0, max_gradient_norm=1.0)
    gradients = jax.tree.map(jnp.zeros_like, small_params())
    gradients["fpn"]["lateral2"]["kernel"] = jnp.array([3.0, 4.0])
    gradients["backbone"]["conv1"]["kernel"] = jnp.array([1e6, 1e6])  # Frozen.
    np.testing.assert_allclose(
        updates(config, gradients)["fpn"]["lateral2"]["kernel"], [-0.6, -0.8], rtol=1e-6
    )


def test_momentum_accumulates_as_in_pytorch():
    params = small_params()
    optimizer = training.make_optimizer(plain_config(weight_decay=0.0), params)
    state, gradients = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
    for expected in (1.0, 1.9, 2.71):
        result, state = optimizer.update(gradients, state, params)
        np.testing.assert_allclose(result["fpn"]["lateral2"]["kernel"], -expected, rtol=1e-6)


def test_adamw_takes_steps_of_the_learning_rate():
    result = updates(
        plain_config(name="adamw", weight_decay=0.0), jax.tree.map(jnp.ones_like, small_params())
    )
    np.testing.assert_allclose(result["fpn"]["lateral2"]["kernel"], -1.0, rtol=1e-4)


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="lion"):
        training.make_optimizer(plain_config(name="lion"), small_params())


def learn_color(state, batch, key, **_):
    """Stands in for a training step: moves the parameters to the mean of the pixels."""
    color = state.params["color"] + batch.images.mean() * jax.random.uniform(key)
    return state._replace(step=state.step + 1, params={"color": color}), {
        "loss": batch.instances.boxes.sum()
    }


@pytest.mark.parametrize("deterministic", [False, True])
def test_one_compilation_for_each_bucket(deterministic, compilations, monkeypatch):
    monkeypatch.setattr(training, "train_step", learn_color)
    config = Config(batch_size=2)
    config.execution.deterministic = deterministic
    config.data.short_sides, config.data.max_long_side = (40, 48, 56), 96
    config.data.buckets, config.data.max_instances = ((64, 96), (96, 64)), 4
    mesh = sharding.make_mesh(2, config.batch_size)
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = sharding.replicate(
        training.create_state({"params": {"color": jnp.float32(0)}}, optimizer), mesh
    )
    model = MaskRCNN(config.model, run=execution.choose(config.execution, mesh))
    step, key = training.compile_step(model, optimizer, config), jax.random.key(0)
    batches = pipeline.train_batches(
        ShapesDataset(40, 64, seed=0), config.data, batch_size=2, seed=0
    )

    buckets, sizes = set(), set()
    for _ in range(12):
        batch = next(batches)
        bucket = batch.images.shape[1:3]
        expected = len(compilations) + (bucket not in buckets)
        state, _ = step(state, sharding.shard_batch(batch, mesh), key)
        assert len(compilations) == expected
        buckets.add(bucket)
        sizes |= set(map(tuple, batch.sizes.tolist()))
    batches.close()
    assert len(buckets) == 2 and len(sizes) > 6
