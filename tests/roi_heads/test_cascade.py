"""Cascades: boxes go from stage to stage, each stage learns from those of the one before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import targets
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import CascadeConfig, ModelConfig, RoIConfig
from maskrcnn_jax.ops import boxes as box_ops
from maskrcnn_jax.roi_heads import cascade, composition
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.structures import Batch, Instances, Proposals, RoITargets
from tests import oracles

SIZE = np.array([[60, 80]])
OBJECTS = np.array([[10, 10, 30, 40], [40, 20, 70, 50], [0, 0, 0, 0]], np.float32)
INSTANCES = Instances(
    jnp.array(OBJECTS), jnp.array([2, 1, 0]), None, jnp.array([True, True, False])
)


def small(**rules):
    config = ModelConfig(num_classes=3, cascade=CascadeConfig(**rules))
    config.box_head.resolution, config.box_head.features = 2, 8
    config.box_head.class_agnostic, config.mask_head = True, None
    config.roi.num_samples, config.roi.positive_fraction = 8, 0.5
    return freeze(config)


def head_and_variables(config):
    """A box head whose last layers are random, and the features of eight RoIs for each stage."""
    head = cascade.CascadeBoxHead(config, Execution())
    rng = np.random.default_rng(0)
    given = proposals(rng)
    features = [jnp.array(rng.normal(size=(1, 8, 2, 2, 4)).astype(np.float32)) for _ in range(3)]
    pool = Pool(features)
    shapes = jax.eval_shape(
        lambda: head.init(jax.random.key(0), pool, given, jnp.array(SIZE), method="predict")
    )
    draw = lambda x: jnp.array(0.5 * rng.normal(size=x.shape).astype(np.float32))  # noqa: E731
    return head, jax.tree.map(draw, shapes), features, given


def proposals(rng):
    corners = rng.uniform(0, 40, size=(1, 8, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 20, size=(1, 8, 2))], axis=2)
    return Proposals(jnp.array(boxes.astype(np.float32)), jnp.ones((1, 8), bool))


class Pool:
    """Gives the features of one stage after the other, and keeps their boxes."""

    def __init__(self, features):
        self.features, self.boxes = features, []

    def __call__(self, boxes, resolution):
        self.boxes.append(boxes)
        return self.features[(len(self.boxes) - 1) % len(self.features)]


@pytest.mark.parametrize(
    "average", ["probabilities", pytest.param("logits", marks=pytest.mark.slow)]
)
def test_each_stage_pools_the_boxes_of_the_one_before_and_all_vote(average):
    config = small(average=average)
    head, variables, features, given = head_and_variables(config)
    pool = Pool(features)
    logits, deltas, last = head.apply(variables, pool, given, jnp.array(SIZE), method="predict")

    boxes, votes = np.asarray(given.boxes[0]), []
    weights = config.roi.box_weights, *config.cascade.box_weights
    for i in range(3):
        np.testing.assert_allclose(pool.boxes[i][0], boxes, atol=1e-4)
        params = jax.tree.map(np.asarray, variables["params"][f"stage_{i}"])
        x = np.asarray(features[i]).reshape(8, -1)
        for layer in ("fc6", "fc7"):
            x = np.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)
        scored, moved = (
            x @ params[name]["kernel"] + params[name]["bias"] for name in ("cls_score", "bbox_pred")
        )
        votes.append(scored)
        if i < 2:
            moved = box_ops.decode(jnp.array(moved), jnp.array(boxes), weights[i])
            boxes = np.asarray(box_ops.clip(moved, jnp.array(SIZE[0])))
    np.testing.assert_allclose(deltas[0, :, 0], moved, atol=1e-4)
    np.testing.assert_allclose(last.boxes[0], boxes, atol=1e-4)
    votes = np.stack(votes)
    if average == "logits":
        expected = jax.nn.softmax(votes.mean(0))
    else:
        expected = np.mean([jax.nn.softmax(x) for x in votes], axis=0)
    np.testing.assert_allclose(jax.nn.softmax(logits[0]), expected, atol=1e-5)
    assert head.bind(variables).box_weights == config.cascade.box_weights[-1]


def test_probabilities_of_their_own_are_averaged_too():
    config = ModelConfig(num_classes=3, cascade=CascadeConfig())
    config.box_head.class_agnostic, config.box_head.classifier = True, "sigmoid"
    head = cascade.CascadeBoxHead(freeze(config), Execution())
    votes = np.random.default_rng(0).normal(size=(3, 1, 4, 3)).astype(np.float32)
    found = head.apply({}, jnp.array(votes), method="_mean")
    np.testing.assert_allclose(jax.nn.sigmoid(found), jax.nn.sigmoid(votes).mean(0), atol=1e-6)


def sampled(rng):
    boxes = proposals(rng).boxes[0].at[0].set(OBJECTS[0]).at[1].set(OBJECTS[1] + 4)
    no = jnp.zeros(8, bool)
    return RoITargets(
        boxes[None],
        jnp.array([[2, 1, 0, 0, 0, 0, 0, 0]]),
        jnp.zeros((1, 8, 4)),
        jnp.array([[0, 1, 0, 0, 0, 0, 0, 0]]),
        no.at[:2].set(True)[None],
        jnp.ones((1, 8), bool).at[0, 7].set(False),
    )


def learn(config, monkeypatch):
    """The losses, the targets of each stage, and the proposals from which each was made."""
    head, variables, features, _ = head_and_variables(config)
    rois, made = sampled(np.random.default_rng(1)), []
    name = "rematched_targets" if config.cascade.samples == "all" else "roi_targets"

    def keep(*arguments, config):
        made.append((arguments[-2], config))
        return getattr(targets, name)(*arguments, config=config)

    monkeypatch.setattr(cascade, name, keep)
    instances = jax.tree.map(lambda x: x[None], INSTANCES)
    image, size, no = jnp.zeros((1, 64, 96, 3), jnp.uint8), jnp.array(SIZE), jnp.zeros(1, int)
    batch = Batch(image, size, size, no, instances, no)
    run = Execution(per_image=lambda f: lambda *x: jax.tree.map(  # One image, without tracing.
        lambda y: y[None], f(*(jax.tree.map(lambda y: y[0], a) for a in x))))  # fmt: skip
    head = cascade.CascadeBoxHead(config, run)
    keys = jax.random.split(jax.random.key(0), 1)
    losses, _, stages, _ = head.apply(variables, Pool(features), rois, batch, keys, method="learn")
    return losses, stages, made


def test_later_stages_learn_from_all_boxes(monkeypatch):
    losses, stages, made = learn(small(), monkeypatch)
    names = {"loss_classifier", "loss_box_reg"}
    assert set(losses) == {f"{name}_stage{i}" for name in names for i in range(3)}
    assert [config.positive_iou for _, config in made] == [0.6, 0.7]
    for (given, config), rois in zip(made, stages[1:], strict=True):
        np.testing.assert_array_equal(rois.boxes[0], given.boxes)
        overlaps = np.array([oracles.iou(np.asarray(x), OBJECTS[:2]) for x in given.boxes])
        sides = np.asarray(given.boxes[:, 2:] - given.boxes[:, :2])
        valid = np.asarray(given.valid) & (sides > 0).all(1)
        np.testing.assert_array_equal(rois.valid[0], valid)
        positive = valid & (overlaps.max(1) >= config.positive_iou)
        np.testing.assert_array_equal(rois.positive[0], positive)
        count = float(losses[f"loss_classifier_stage{len(made) - 1}"][1])
        assert count == float(stages[-1].valid.sum())


def test_sampled_stages_refine_no_object(monkeypatch):
    config = small(samples="drawn", loss_weight=0.5)
    _, stages, made = learn(config, monkeypatch)
    # The first RoI is an object itself, which is a candidate again; the last slot is empty.
    assert made[0][0].valid.tolist() == [False, *[True] * 6, False]
    found = np.asarray(stages[1].boxes[0])
    assert (found == OBJECTS[0]).all(1).sum() == 1 and (found == OBJECTS[1]).all(1).sum() == 1


@pytest.mark.slow
def test_weights_of_losses(monkeypatch):
    plain, _, _ = learn(small(samples="drawn"), monkeypatch)
    halved, _, _ = learn(small(samples="drawn", loss_weight=0.5), monkeypatch)
    for i in range(3):
        name = f"loss_classifier_stage{i}"
        assert float(halved[name][0]) == pytest.approx(float(plain[name][0]) * 0.5**i)


@pytest.mark.parametrize("factor, expected", [(None, 1 / 3), (1.0, 1.0), (0.25, 0.25)])
def test_the_gradient_by_pooled_features_is_scaled(factor, expected):
    head = cascade.CascadeBoxHead(small(feature_gradient=factor), Execution())

    def scaled(x):
        return head.apply({}, x, method="_scale_gradient")

    value, gradient = jax.value_and_grad(scaled)(2.0)
    assert float(value) == pytest.approx(2) and float(gradient) == pytest.approx(expected)


@pytest.mark.slow
def test_masks_of_several_heads_are_means_of_probabilities():
    config = ModelConfig(num_classes=3, cascade=CascadeConfig(samples="drawn", mask_heads="each"))
    config.box_head.class_agnostic = True
    config.mask_head.num_convs, config.mask_head.channels = 0, 4
    config = freeze(config)
    _, head = composition.build(config, Execution())
    rng = np.random.default_rng(0)
    pooled, classes = jnp.array(rng.normal(size=(1, 2, 3, 3, 4))), jnp.array([[1, 2]])
    variables = head.init(jax.random.key(0), pooled, classes)
    found = jax.nn.sigmoid(head.apply(variables, pooled, classes))
    single = head.bind(variables).stage
    expected = np.mean([jax.nn.sigmoid(each(pooled, classes)) for each in single], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(found) > 0.1


def test_the_first_stage_has_the_rules_of_the_rois():
    first, *later = cascade.stage_configs(small())
    assert first == RoIConfig(num_samples=8, positive_fraction=0.5)
    assert {x.num_samples for x in later} == {8}
