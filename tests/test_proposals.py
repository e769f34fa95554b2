"""Proposals against torchvision's steps, one after another in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.model_config import RPNConfig
from maskrcnn_jax.ops import anchors
from maskrcnn_jax.proposals import propose
from maskrcnn_jax.settings import freeze
from tests import oracles, traces
from tests.conftest import QUICK_COMPILE

SHAPES = {2: (16, 24), 3: (8, 12), 4: (4, 6), 5: (2, 3), 6: (1, 2)}
CONFIG = freeze(RPNConfig(anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0), nms_threshold=0.5))
SIZE, CANVAS = np.array([60, 90]), np.array([64, 96])


@partial(jax.jit, static_argnames=("config", "num_candidates", "num_proposals"))
def run(logits, deltas, size, canvas, config=CONFIG, num_candidates=40, num_proposals=50):
    knobs = {"num_candidates": num_candidates, "num_proposals": num_proposals}
    return propose(logits, deltas, size, canvas, shapes=SHAPES, config=config, **knobs)


def scored_anchors(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    counts = {level: 3 * height * width for level, (height, width) in SHAPES.items()}
    logits = {level: rng.normal(size=n).astype("f") for level, n in counts.items()}
    deltas = {level: (scale * rng.normal(size=(n, 4))).astype("f") for level, n in counts.items()}
    return logits, deltas


def propose_slowly(logits, deltas, size, num_candidates, num_proposals, config=CONFIG):
    """Boxes ``[n, 4]``, by torchvision's steps.

    Decode all, take the best of each level, clip, drop small ones, suppress per level, take the
    best of all levels.
    """
    grids = anchors.pyramid_anchors(
        SHAPES, jnp.array(CANVAS), config.anchor_sizes, config.aspect_ratios
    )
    found, scores = [], []
    for level in sorted(SHAPES):
        grid = np.asarray(grids[level][0])
        sides = grid[:, 2:] - grid[:, :2]
        center = grid[:, :2] + sides / 2 + deltas[level][:, :2] * sides
        half = np.exp(np.minimum(deltas[level][:, 2:], np.log(1000 / 16))) * sides / 2
        boxes = np.concatenate([center - half, center + half], axis=1).astype("f")
        best = np.argsort(-logits[level], kind="stable")[:num_candidates]
        boxes = np.clip(boxes[best], 0, np.float32([size[1], size[0]] * 2))
        score = (1 / (1 + np.exp(-logits[level][best].astype(np.float64)))).astype("f")
        large = (boxes[:, 2:] - boxes[:, :2] >= config.min_box_size).all(axis=1)
        keep = oracles.nms(boxes, large & (score >= config.score_threshold), config.nms_threshold)
        found.append(boxes[keep])
        scores.append(score[keep])
    order = np.argsort(-np.concatenate(scores), kind="stable")[:num_proposals]
    return np.concatenate(found)[order]


def check(proposals, expected, num_proposals):
    count = len(expected)
    assert proposals.boxes.shape == (num_proposals, 4)
    np.testing.assert_array_equal(proposals.valid, np.arange(num_proposals) < count)
    np.testing.assert_allclose(proposals.boxes[:count], expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(proposals.boxes[count:], 0)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_oracle(seed):
    scored = scored_anchors(seed)
    expected = propose_slowly(*scored, SIZE, 40, 50)
    assert len(expected) == 50
    assert (expected == 0).any() and (expected[:, 2] == 90).any()  # Some reach over the border.
    check(run(*scored, SIZE, CANVAS), expected, 50)


def test_fewer_candidates_than_slots():
    logits, deltas = scored_anchors(0, scale=0.1)
    expected = propose_slowly(logits, deltas, SIZE, 11, 50)
    assert 10 < len(expected) < 50
    check(run(logits, deltas, SIZE, CANVAS, num_candidates=11), expected, 50)


def test_more_slots_than_all_candidates_together():
    scored = scored_anchors(1)
    expected = propose_slowly(*scored, SIZE, 4, 30)
    assert run(*scored, SIZE, CANVAS, num_candidates=4, num_proposals=30).boxes.shape == (20, 4)
    check(run(*scored, SIZE, CANVAS, num_candidates=4, num_proposals=30), expected, 20)


def test_ties_go_to_the_finer_level_and_the_earlier_anchor():
    logits, deltas = scored_anchors(2, scale=0.05)
    logits = {level: np.round(x) for level, x in logits.items()}
    check(run(logits, deltas, SIZE, CANVAS), propose_slowly(logits, deltas, SIZE, 40, 50), 50)


def test_boxes_outside_the_image_leave_no_proposal():
    logits, deltas = scored_anchors(3)
    deltas = {level: x * 0 + np.float32([1000, 0, 0, 0]) for level, x in deltas.items()}
    proposals = run(logits, deltas, SIZE, CANVAS)
    assert not proposals.valid.any()
    np.testing.assert_array_equal(proposals.boxes, 0)


def test_score_threshold_is_inclusive():
    logits, deltas = scored_anchors(4, scale=0)
    logits = {
        level: np.where(np.arange(len(x)) % 97 == 0, 0, -5).astype("f")
        for level, x in logits.items()
    }
    half = freeze(
        RPNConfig(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0), nms_threshold=0.5, score_threshold=0.5
        )
    )
    expected = propose_slowly(logits, deltas, SIZE, 40, 50, half)
    assert 0 < len(expected) < len(propose_slowly(logits, deltas, SIZE, 40, 50))
    check(run(logits, deltas, SIZE, CANVAS, config=half), expected, 50)


def test_anchors_beyond_the_canvas_do_not_exist():
    """A canvas of 32x48 in the same bucket: no proposal comes from an anchor beyond it."""
    logits, deltas = scored_anchors(5, scale=0.1)
    outside = {level: np.ones(shape, bool) for level, shape in SHAPES.items()}
    for level, mask in outside.items():
        mask[: -(-32 // 2**level), : -(-48 // 2**level)] = False
    noisy = {level: x + 100 * np.tile(outside[level].reshape(-1), 3) for level, x in logits.items()}
    noisy = {level: x.astype("f") for level, x in noisy.items()}
    size, canvas = np.array([30, 40]), np.array([32, 48])
    expected, proposals = run(logits, deltas, size, canvas), run(noisy, deltas, size, canvas)
    np.testing.assert_array_equal(proposals.boxes, expected.boxes)
    assert 10 < proposals.valid.sum() and proposals.boxes[:, 2].max() == 40


def test_no_gradient_flows_through_proposals():
    logits, deltas = scored_anchors(6)
    gradient = jax.jit(jax.grad(lambda deltas: run(logits, deltas, SIZE, CANVAS).boxes.sum()))(
        deltas
    )
    assert all((x == 0).all() for x in gradient.values())


def test_a_minimum_of_0_drops_boxes_without_an_area():
    """One of three anchors is moved out of the image: clipped to the border, it has no width."""
    config = freeze(RPNConfig(anchor_sizes=(8.0,), min_box_size=0.0))
    knobs = {"num_candidates": 3, "num_proposals": 3, "shapes": {2: (1, 1)}, "config": config}
    compiled = jax.jit(partial(propose, **knobs), compiler_options=QUICK_COMPILE)
    deltas = np.zeros((3, 4), np.float32)
    deltas[1, 0] = 1000
    size = np.array([4, 4])
    proposals = compiled({2: np.zeros(3, np.float32)}, {2: deltas}, size, size)
    assert proposals.valid.sum() == 2


def test_the_config_says_how_anchors_are_made():
    config = RPNConfig(round_anchors=False, anchor_stride="level")
    assert config.anchors == {
        "sizes": config.anchor_sizes,
        "aspect_ratios": config.aspect_ratios,
        "stride": "level",
        "rounded": False,
    }


def test_no_gather_takes_anchors_or_deltas_as_boxes():
    # On a TPU, [n, 4] is as large as [n, 128].
    logits, deltas = scored_anchors(0)
    traced = jax.make_jaxpr(run)(logits, deltas, jnp.array(CANVAS), jnp.array(CANVAS)).jaxpr
    taken = traces.operand_shapes(traced, "gather")
    for level in logits.values():
        assert (len(level),) in taken and (len(level), 4) not in taken
