"""Training on meshes has the losses, gradients, states and random draws of one device."""

import re
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maskrcnn_jax import execution, losses, sharding, training
from maskrcnn_jax.config import Config, ExecutionConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RoIConfig,
    RPNConfig,
)
from maskrcnn_jax.ops.rounding import ceil32
from maskrcnn_jax.structures import AnchorTargets, Bitmaps, RoITargets
from tests.conftest import QUICK_COMPILE, random_variables, smooth_activations
from tests.test_model import make_batch, noise_image

KEY = jax.random.key(7)
BUCKET = (128, 96)  # The least height that devices can share.
OPTIMIZER = optax.sgd(0.001, momentum=0.9)
COLLECTIVE = re.compile(
    r"= \w+\[([\d,]*)\]\S* "
    r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    r"|= \(.*?\) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def small(norm="frozen_batch", sampling_ratio=2):
    """The config of a smallest model with all parts."""
    return ModelConfig(
        num_classes=4,
        backbone=ResNetConfig(depth=18, norm=norm, stem_channels=8),
        fpn=FPNConfig(channels=8),
        rpn=RPNConfig(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
            num_samples=32,
            num_candidates=64,
            num_proposals=64,
        ),
        roi=RoIConfig(num_samples=16, sampling_ratio=sampling_ratio),
        box_head=BoxHeadConfig(features=16),
        mask_head=MaskHeadConfig(channels=8, num_convs=1),
    )


def sharded_model(mesh, config=None):
    return MaskRCNN(config or small(), run=execution.choose(mesh=mesh))


def variables(config):
    """Random variables with norms near the identity."""
    fixed = {"scale": 0.5, "bias": 0.0, "mean": 0.0, "var": 1.0}
    random = random_variables(MaskRCNN(config))
    for name in random.keys() - {"params"}:
        random[name] = jax.tree_util.tree_map_with_path(
            lambda path, x: np.full_like(x, fixed[path[-1].key]), random[name]
        )
    return random


def batch(mask_store="crop"):
    """Eight images that fill all, two thirds or half of the rows of the bucket."""
    batch = make_batch(BUCKET)
    sizes = np.array(
        [(128, 90), (128, 96), (60, 90), (120, 60), (65, 65), (128, 33), (100, 96), (128, 64)]
    )
    stretch = np.tile(sizes / batch.sizes, 2)[:, None, ::-1].astype(np.float32)
    boxes = batch.instances.boxes * stretch
    masks = batch.instances.masks
    if mask_store == "full":
        masks = Bitmaps(np.stack([whole_masks(image) for image in boxes]))
    images = np.stack([noise_image(i, tuple(size), BUCKET) for i, size in enumerate(sizes)])
    instances = batch.instances._replace(boxes=boxes, masks=masks)
    return batch._replace(
        images=images, sizes=sizes, canvas=np.array(ceil32(jnp.asarray(sizes))), instances=instances
    )


def whole_masks(boxes):
    rows, columns = np.mgrid[: BUCKET[0], : BUCKET[1]]
    inside = [
        (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1) for x0, y0, x1, y1 in boxes
    ]
    return np.stack(inside).astype(np.uint8) * 255


def compiled_step(data, space, config=None, mask_store="crop", num_microbatches=1):
    """The compiled step on a mesh, and the state and the batch on the devices."""
    config = small() if config is None else config
    mesh = sharding.make_mesh(data * space, 8, space=space)
    state = sharding.replicate(training.create_state(variables(config), OPTIMIZER), mesh)
    images = sharding.shard_batch(batch(mask_store), mesh)
    settings = Config(execution=ExecutionConfig(num_microbatches=num_microbatches))
    step = training.compile_step(sharded_model(mesh, config), OPTIMIZER, settings)
    return step.lower(state, images, KEY).compile(QUICK_COMPILE), state, images


def after_three_steps(step, state, images):
    metrics = []
    for _ in range(3):
        state, step_metrics = step(state, images, KEY)
        metrics.append(jax.device_get(step_metrics))
    return jax.device_get(state), metrics


def assert_same_training(actual, expected):
    """Compares the metrics of three steps, the momentum, and the final parameters."""
    (state, metrics), (expected_state, expected_metrics) = actual, expected
    for ours, theirs in zip(metrics, expected_metrics, strict=True):
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)
    buffers = zip(*map(jax.tree.leaves, (state.optimizer, expected_state.optimizer)), strict=True)
    for ours, theirs in buffers:
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)
    start = variables(small())["params"]
    moves = zip(*map(jax.tree.leaves, (start, state.params, expected_state.params)), strict=True)
    for before, ours, theirs in moves:
        # Three small updates of a large parameter are rounded themselves.
        rounding = 3 * np.finfo(np.float32).eps * np.linalg.norm(before)
        allowed = 1e-4 * np.linalg.norm(theirs - before) + rounding
        assert np.linalg.norm(ours - theirs) <= allowed


def gradient_of_features(data, space):
    """Pooled RoIs, P6, and their gradient by the parameters of backbone and pyramid."""
    mesh = sharding.make_mesh(data * space, 8, space=space)
    model = sharded_model(mesh)

    def total(params, fixed, images):
        def pool(model):
            pyramid = model.features(images.images, images.sizes, images.canvas)
            return model.pool(pyramid, images.instances.boxes, images.canvas, 7), pyramid[6]

        results = model.apply({"params": params, **fixed}, method=pool)
        return sum(jnp.sin(x).sum() for x in results), results

    fixed = sharding.replicate(variables(small()), mesh)
    arguments = fixed.pop("params"), fixed, sharding.shard_batch(batch(), mesh)
    program = (
        jax.jit(jax.value_and_grad(total, has_aux=True)).lower(*arguments).compile(QUICK_COMPILE)
    )
    return jax.device_get(program(*arguments))


def test_devices_that_share_images_find_the_features_and_gradients_of_one():
    """XLA shards convolutions by rows, correctly only for the shards of `check_buckets`."""
    results, expected = gradient_of_features(2, 4), gradient_of_features(1, 1)
    for ours, theirs in zip(*map(jax.tree.leaves, (results, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * abs(theirs).max())


@contextmanager
def smooth_steps():
    """Makes steps with smooth activations.

    An input of a ReLU may be 1e-7 on one mesh and -1e-8 on another, which switches a gradient: in
    the second step of 2 x 4 devices this changed the gradient of a kernel by a sixtieth.
    """
    with pytest.MonkeyPatch.context() as patch:
        smooth_activations(patch)
        yield


@pytest.fixture
def smooth():
    with smooth_steps():
        yield


@pytest.fixture(scope="module")
def one():
    with smooth_steps():
        return after_three_steps(*compiled_step(1, 1))


def collectives(program):
    """The kinds of collectives in a program, and the shapes of all-gathers."""
    found = COLLECTIVE.findall(program.as_text())
    kinds = {kind or combined for _, kind, combined in found}
    gathered = {
        tuple(map(int, shape.split(","))) for shape, kind, _ in found if kind == "all-gather"
    }
    return kinds, gathered


def allowed_gathers(data, channels=8, num_ratios=3):
    """The allowed shapes of all-gathers along rows: P5, and logits and deltas side by side."""
    shapes = [(8 // data, BUCKET[0] >> level, BUCKET[1] >> level) for level in range(2, 6)]
    return {(*shapes[-1], channels)} | {(*shape, 5 * num_ratios) for shape in shapes}


@pytest.mark.slow
@pytest.mark.usefixtures("smooth")
@pytest.mark.parametrize("data, space", [(4, 2), (2, 4)])
def test_devices_that_share_images_take_the_steps_of_one(one, data, space):
    program, state, images = compiled_step(data, space)
    kinds, gathered = collectives(program)
    assert kinds == {"all-reduce", "collective-permute", "all-gather"}
    assert gathered <= allowed_gathers(data)
    assert_same_training(after_three_steps(program, state, images), one)


@pytest.mark.slow
@pytest.mark.usefixtures("smooth")
def test_one_image_per_device_takes_the_steps_of_one(one):
    """The only collectives are all-reduces."""
    program, state, images = compiled_step(8, 1)
    assert collectives(program) == ({"all-reduce"}, set())
    everywhere = NamedSharding(sharding.make_mesh(8, 8), PartitionSpec())
    outputs, _ = program.output_shardings
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(outputs), strict=True):
        assert place.is_equivalent_to(everywhere, leaf.ndim)
    assert_same_training(after_three_steps(program, state, images), one)


@pytest.mark.slow
def test_convolutions_with_groups_gather_nothing():
    config = small()
    config.backbone = ResNetConfig(depth=50, stem_channels=8, groups=4, width_per_group=16)
    program, _, _ = compiled_step(4, 1, config)
    assert collectives(program) == ({"all-reduce"}, set())


@pytest.mark.slow
@pytest.mark.usefixtures("smooth")
def test_micro_batches_of_several_devices_take_the_steps_of_one(one):
    program, state, images = compiled_step(4, 1, num_microbatches=2)
    assert collectives(program) == ({"all-reduce"}, set())
    assert_same_training(after_three_steps(program, state, images), one)


@pytest.mark.slow
@pytest.mark.parametrize("data, space", [(8, 1), (4, 2)])
def test_adaptive_pooling_and_whole_masks_gather_no_more(data, space):
    program, _, _ = compiled_step(data, space, small(sampling_ratio=0), mask_store="full")
    kinds, gathered = collectives(program)
    assert kinds == (
        {"all-reduce"} if space == 1 else {"all-reduce", "collective-permute", "all-gather"}
    )
    assert gathered <= (set() if space == 1 else allowed_gathers(data))


@pytest.mark.slow
@pytest.mark.usefixtures("smooth")
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norms_take_their_statistics_over_all_rows_and_images(norm):
    config = small(norm) if norm == "batch" else group_norms()
    results = []
    for data, space in [(1, 1), (4, 2)]:
        program, state, images = compiled_step(data, space, config)
        state, metrics = program(state, images, KEY)
        results.append(jax.device_get((metrics, state.batch_stats)))
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def group_norms():
    config = small("group")
    config.backbone.stem_channels = 32  # One channel for each group.
    return config


# Programs that users map over devices.


def step_by_hand(state, images, key, *, model, gradients_are_added=False):
    """A step of one device on its share of a batch.

    Sums the counts over devices before the division, and then the losses and the gradients. A
    `shard_map` with `check_vma` has already summed the gradients of replicated parameters.
    """
    step_key = jax.random.fold_in(key, state.step)

    def loss(params):
        sums, _ = model.apply(
            {"params": params, "constants": state.constants}, images, step_key, method="losses"
        )
        return sum(
            losses.mean((total, jax.lax.psum(count, "data"))) for total, count in sums.values()
        )

    value, gradients = jax.value_and_grad(loss)(state.params)
    gradients = gradients if gradients_are_added else jax.lax.psum(gradients, "data")
    updates, optimizer = OPTIMIZER.update(gradients, state.optimizer)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": jax.lax.psum(value, "data"), "gradient_norm": optax.tree.norm(gradients)}
    return state._replace(step=state.step + 1, params=params, optimizer=optimizer), metrics


def by_shard_map(check_vma):
    mesh = sharding.make_mesh(8, 8)
    whole, split = PartitionSpec(), PartitionSpec("data")
    step = partial(step_by_hand, model=MaskRCNN(small()), gradients_are_added=check_vma)
    specs = {"in_specs": (whole, split, whole), "out_specs": whole}
    return jax.jit(jax.shard_map(step, mesh=mesh, check_vma=check_vma, **specs)), batch()


def by_pmap():
    step = partial(step_by_hand, model=MaskRCNN(small()))
    mapped = jax.pmap(step, "data", in_axes=(None, 0, None), out_axes=None)
    return mapped, jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), batch())


@pytest.mark.slow
@pytest.mark.usefixtures("smooth")
@pytest.mark.parametrize(
    "make",
    [by_pmap, partial(by_shard_map, False), partial(by_shard_map, True)],
    ids=["pmap", "shard_map", "check_vma"],
)
def test_a_step_mapped_by_hand_is_the_same(one, make):
    step, images = make()
    state = training.create_state(variables(small()), OPTIMIZER)
    program = step.lower(state, images, KEY).compile(QUICK_COMPILE)
    assert_same_training(after_three_steps(program, state, images), one)


# Random draws.


def draws(data, space):
    """The anchors and RoIs that the losses sample."""
    mesh = sharding.make_mesh(data * space, 8, space=space)
    chosen = execution.choose(mesh=mesh)
    kept = []

    def per_image(stage):
        def keep(*arguments):
            result = chosen.per_image(stage)(*arguments)
            kept.extend([result] if isinstance(result, AnchorTargets | RoITargets) else [])
            return result

        return keep

    def run(variables, images, key):
        kept.clear()
        model.apply(variables, images, key, method="losses")
        return tuple(kept)

    model = MaskRCNN(small(), run=chosen._replace(per_image=per_image))
    arguments = (
        sharding.replicate(variables(small()), mesh),
        sharding.shard_batch(batch(), mesh),
        KEY,
    )
    return jax.device_get(jax.jit(run).lower(*arguments).compile(QUICK_COMPILE)(*arguments))


@pytest.mark.slow
def test_draws_depend_on_seed_and_image_only():
    """Boxes identify RoIs. RoIs whose scores tie within rounding could swap, but none do here."""
    anchors, rois = draws(1, 1)
    assert anchors.valid.any() and rois.positive.any() and not rois.positive.all()
    for data, space in [(2, 1), (8, 1), (2, 4)]:
        other_anchors, other_rois = draws(data, space)
        np.testing.assert_array_equal(other_anchors.indices, anchors.indices)
        np.testing.assert_array_equal(other_anchors.valid, anchors.valid)
        np.testing.assert_array_equal(other_rois.valid, rois.valid)
        np.testing.assert_array_equal(other_rois.classes, rois.classes)
        np.testing.assert_array_equal(other_rois.instances, rois.instances)
        np.testing.assert_allclose(other_rois.boxes, rois.boxes, atol=1e-3)
