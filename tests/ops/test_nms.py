"""Non-maximum suppression against the greedy rule, at all kinds of thresholds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from maskrcnn_jax.ops import nms
from tests import oracles

suppress = jax.jit(nms.suppress, static_argnames="threshold")


@partial(jax.jit, static_argnames=("threshold", "num_selected", "block_size"))
def select(boxes, valid, groups, threshold, num_selected, block_size):
    return nms.select(
        boxes, valid, groups, threshold, num_selected=num_selected, block_size=block_size
    )


def clustered(seed, num_boxes=120):
    """Boxes in few clusters, so that most are suppressed; some are duplicates or have no area."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 12, num_boxes)
    centers = rng.uniform(0, 100, (12, 2))[cluster] + rng.normal(0, 3, (num_boxes, 2))
    sizes = rng.uniform(10, 40, (12, 2))[cluster] * rng.uniform(0.7, 1.4, (num_boxes, 2))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1).astype(np.float32)
    boxes[rng.integers(0, num_boxes, 8)] = boxes[rng.integers(0, num_boxes, 8)]
    boxes[rng.integers(0, num_boxes, 4), 2:] = boxes[rng.integers(0, num_boxes, 4), :2]
    boxes[-3:] = boxes[5, [0, 1, 0, 1]]  # Three times the same point.
    return boxes, rng.random(num_boxes) < 0.9, rng.integers(0, 3, num_boxes)


def selected(indices, found):
    return np.asarray(indices)[np.asarray(found)].tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.4, 0.5, 0.7])
def test_equals_the_greedy_rule(threshold):
    for seed in range(20):
        boxes, valid, groups = clustered(seed)
        for competing in (groups, np.zeros_like(groups)):
            expected = oracles.nms(boxes, valid, threshold, competing)
            np.testing.assert_array_equal(suppress(boxes, valid, threshold, competing), expected)


@pytest.mark.parametrize("num_selected, block_size", [(5, 7), (200, 7), (200, 60), (5, 1024)])
def test_selection_is_the_first_survivors(num_selected, block_size):
    for seed in range(10):
        boxes, valid, groups = clustered(seed)
        survivors = np.flatnonzero(oracles.nms(boxes, valid, 0.4, groups)).tolist()
        assert 5 < len(survivors) < 100
        indices, found = select(
            boxes, valid, groups, 0.4, num_selected=num_selected, block_size=block_size
        )
        assert indices.shape == found.shape == (num_selected,)
        assert selected(indices, found) == survivors[:num_selected]
        assert not indices[~found].any()


def test_chain_of_boxes_survives_every_other():
    # Neighbours overlap by 2/3, so each box would suppress the next; a suppressed one must not.
    start = jnp.arange(101.0)
    boxes = jnp.stack([start, 0 * start, start + 5, 0 * start + 1], axis=1)
    valid, groups = jnp.ones(101, bool), jnp.zeros(101, int)
    assert suppress(boxes, valid, 0.6).tolist() == [i % 2 == 0 for i in range(101)]
    assert selected(*select(boxes, valid, groups, 0.6, num_selected=60, block_size=8)) == list(
        range(0, 101, 2)
    )


@pytest.mark.parametrize("num_sweeps", [0, 1, nms.GPU_SWEEPS, 200])
def test_every_number_of_sweeps_gives_the_same(num_sweeps):
    start = jnp.arange(101.0)  # The same chain: each sweep settles one or two boxes more.
    chain = jnp.stack([start, 0 * start, start + 5, 0 * start + 1], axis=1)
    sweep = jax.jit(partial(nms._sweep, num_sweeps=num_sweeps))
    for boxes, valid in [(chain, jnp.ones(101, bool))] + [
        clustered(seed)[:2] for seed in range(10)
    ]:
        found = sweep(nms._suppressors(jnp.asarray(boxes), 0.6, None), jnp.asarray(valid))
        np.testing.assert_array_equal(found, oracles.nms(boxes, valid, 0.6))


@pytest.mark.parametrize("platform, loops", [("cpu", 1), ("tpu", 1), ("cuda", 2), ("rocm", 2)])
def test_only_a_gpu_sweeps_before_it_asks(platform, loops):
    exporting = jax.export.export(
        jax.jit(partial(nms.suppress, threshold=0.5)), platforms=[platform]
    )
    assert (
        exporting(jnp.zeros((4, 4)), jnp.ones(4, bool)).mlir_module().count("stablehlo.while")
        == loops
    )


def test_threshold_is_exclusive():
    boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 2]])  # Their IoU is 0.5 without rounding.
    valid = jnp.ones(2, bool)
    assert suppress(boxes, valid, 0.5).tolist() == [True, True]
    assert suppress(boxes, valid, 0.499).tolist() == [True, False]


def test_first_of_duplicates_survives():
    boxes, valid = (
        jnp.tile(jnp.array([[1.0, 2, 5, 9]]), (4, 1)),
        jnp.array([False, True, True, True]),
    )
    assert suppress(boxes, valid, 0.7).tolist() == [False, True, False, False]


def test_groups_do_not_compete():
    boxes, valid = jnp.tile(jnp.array([[1.0, 2, 5, 9]]), (4, 1)), jnp.ones(4, bool)
    assert suppress(boxes, valid, 0.7, jnp.array([3, 1, 3, -1])).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_touching_boxes_survive_the_threshold_zero():
    boxes = jnp.array([[0.0, 0, 4, 4], [4, 0, 8, 4], [3.9, 0, 8, 4]])
    assert suppress(boxes, jnp.ones(3, bool), 0.0).tolist() == [True, True, False]


def test_boxes_without_area_survive():
    boxes = jnp.array([[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 3, 9, 3], [0, 0, 9, 9], [2, 2, 2, 2]])
    assert suppress(boxes, jnp.ones(5, bool), 0.0).all()
    assert select(boxes, jnp.ones(5, bool), jnp.zeros(5, int), 0.0, num_selected=5, block_size=2)[
        1
    ].all()


def test_nothing_valid():
    boxes, _, groups = clustered(0)
    valid = np.zeros(len(boxes), bool)
    assert not suppress(boxes, valid, 0.5).any()
    assert not select(boxes, valid, groups, 0.5, num_selected=5, block_size=60)[1].any()


def test_no_boxes():
    assert suppress(jnp.zeros((0, 4)), jnp.zeros(0, bool), 0.5).shape == (0,)


def test_invalid_boxes_may_hold_anything():
    boxes, valid, groups = clustered(1)
    garbage = np.where(valid[:, None], boxes, np.nan).astype(np.float32)
    np.testing.assert_array_equal(suppress(garbage, valid, 0.5), suppress(boxes, valid, 0.5))
    survivors = selected(*select(boxes, valid, groups, 0.5, num_selected=200, block_size=60))
    assert (
        selected(*select(garbage, valid, groups, 0.5, num_selected=200, block_size=60)) == survivors
    )


def test_many_candidates_cost_the_blocks_of_the_valid():
    # The IoUs of all pairs would not fit into memory. One valid box far behind is still found.
    boxes, valid, groups = clustered(2)
    many = np.tile(boxes, (750, 1))
    is_valid = np.zeros(90_000, bool)
    is_valid[:120], is_valid[89_999] = valid, True
    many[89_999] = [500, 500, 600, 600]
    survivors = np.flatnonzero(oracles.nms(boxes, valid, 0.5, groups)).tolist()
    indices, found = select(
        many, is_valid, np.tile(groups, 750), 0.5, num_selected=200, block_size=1024
    )
    assert selected(indices, found) == [*survivors, 89_999]


def batch():
    images = [clustered(seed) for seed in range(8)]
    images[3][1][:] = False  # One image without candidates beside full ones.
    images[4][1][5:] = False
    return tuple(jnp.stack([jnp.asarray(image[i]) for image in images]) for i in range(3))


def suppress_and_select(boxes, valid, groups):
    return nms.suppress(boxes, valid, 0.4, groups), *nms.select(
        boxes, valid, groups, 0.4, num_selected=30, block_size=32
    )


def sharded(check_vma):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    mapped = jax.vmap(suppress_and_select)
    return jax.jit(
        jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
    )


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit(jax.vmap(suppress_and_select)),
        lambda *args: jax.pmap(suppress_and_select)(*args),
        lambda *args: sharded(check_vma=False)(*args),
        lambda *args: sharded(check_vma=True)(*args),
    ],
    ids=["vmap", "pmap", "shard_map", "shard_map with check_vma"],
)
def test_images_do_not_influence_each_other(transform):
    images = batch()
    survive, indices, found = transform(*images)
    for i, (boxes, valid, groups) in enumerate(zip(*map(np.asarray, images), strict=True)):
        expected = oracles.nms(boxes, valid, 0.4, groups)
        np.testing.assert_array_equal(survive[i], expected)
        assert selected(indices[i], found[i]) == np.flatnonzero(expected).tolist()[:30]
