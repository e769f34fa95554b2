"""Box geometry: golden values of torchvision's box coder, hand-computed overlaps, round trips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import boxes

ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


pairwise_iou = jax.jit(boxes.pairwise_iou)
encode = jax.jit(boxes.encode, static_argnums=2)
decode = jax.jit(boxes.decode, static_argnums=2)


def random_boxes(rng, n, size=100.0):
    corner = rng.uniform(0, size, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, size, (n, 2))], axis=1).astype(
        np.float32
    )


def test_lists_of_boxes_are_concatenated_and_indexed():
    parts = [jnp.array(random_boxes(np.random.default_rng(n), n)) for n in (3, 0, 2)]
    whole = np.concatenate(parts)
    np.testing.assert_array_equal(boxes.concatenate(parts), whole)
    np.testing.assert_array_equal(
        boxes.take(jnp.array(whole), jnp.array([4, 0, 0])), whole[[4, 0, 0]]
    )
    assert boxes.take(jnp.array(whole), jnp.zeros(0, jnp.int32)).shape == (0, 4)


def test_area_has_no_extra_pixel():
    given = jnp.array([[1.0, 2, 4, 7], [5, 5, 5, 9], [0, 0, 1, 1]])
    np.testing.assert_array_equal(boxes.area(given), [15, 0, 1])


def test_iou_of_pairs_worked_out_by_hand():
    a = jnp.array([[0.0, 0, 10, 10], [20, 20, 20, 30]])
    b = jnp.array(
        [[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [50, 50, 60, 60]]
    )
    expected = [[1, 50 / 150, 0, 4 / 100, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_allclose(pairwise_iou(a, b), expected, rtol=1e-6)


def test_iou_of_two_boxes_without_area_is_nan():
    point = jnp.array([[3.0, 3, 3, 3]])
    assert np.isnan(pairwise_iou(point, point)).all()


@pytest.mark.parametrize("seed", range(3))
def test_iou_is_symmetric_and_survives_translation(seed):
    rng = np.random.default_rng(seed)
    a, b = random_boxes(rng, 7), random_boxes(rng, 9)
    iou = pairwise_iou(jnp.asarray(a), jnp.asarray(b))
    assert iou.shape == (7, 9) and (iou > 0).any() and (iou < 1).all()
    np.testing.assert_array_equal(iou, pairwise_iou(jnp.asarray(b), jnp.asarray(a)).T)
    np.testing.assert_allclose(
        iou, pairwise_iou(jnp.asarray(a + 16), jnp.asarray(b + 16)), atol=1e-5
    )


@pytest.mark.parametrize(
    "anchor, box, expected",
    [
        ([10, 20, 50, 100], [12, 18, 60, 90], [1.5, -0.75, 0.911608, -0.526803]),
        ([0, 0, 16, 16], [2, 2, 10, 30], [-1.25, 5.0, -3.465736, 2.798079]),
    ],
)
def test_encode_golden(anchor, box, expected):
    delta = encode(jnp.array([box], jnp.float32), jnp.array([anchor], jnp.float32), ROI_WEIGHTS)
    np.testing.assert_allclose(delta[0], expected, rtol=1e-6)


def test_decode_golden_clamps_growth_but_neither_shift_nor_shrinking():
    anchor = jnp.array([[10.0, 20, 50, 100]])
    decoded = decode(jnp.array([[1.0, -1, 100, -100]]), anchor, ROI_WEIGHTS)
    np.testing.assert_allclose(decoded[0], [-1216.0001, 52, 1284.0001, 52], rtol=1e-6)
    far = decode(jnp.array([[1000.0, 0, 0, 0]]), anchor, ROI_WEIGHTS)
    np.testing.assert_allclose(far[0], [4010, 20, 4050, 100], rtol=1e-6)
    assert np.isfinite(decode(jnp.full((1, 4), 1e6), anchor, ROI_WEIGHTS)).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), ROI_WEIGHTS])
def test_decode_inverts_encode(weights):
    rng = np.random.default_rng(0)
    target, anchor = jnp.asarray(random_boxes(rng, 50)), jnp.asarray(random_boxes(rng, 50))
    np.testing.assert_allclose(
        decode(encode(target, anchor, weights), anchor, weights), target, rtol=1e-4, atol=1e-3
    )


def test_decode_broadcasts_anchors_over_classes():
    rng = np.random.default_rng(1)
    anchor = jnp.asarray(random_boxes(rng, 3))
    deltas = jnp.asarray(rng.normal(size=(3, 5, 4)).astype(np.float32))
    together = decode(deltas, anchor.reshape(3, 1, 4), ROI_WEIGHTS)
    for k in range(5):
        np.testing.assert_allclose(
            together[:, k], decode(deltas[:, k], anchor, ROI_WEIGHTS), rtol=1e-6
        )


def test_clip_takes_height_before_width():
    outside = jnp.array([[-5.0, -6, 300, 400], [10, 20, 30, 40], [500, 500, 600, 600]])
    clipped = boxes.clip(outside, jnp.array([100, 200]))
    np.testing.assert_array_equal(
        clipped, [[0, 0, 200, 100], [10, 20, 30, 40], [200, 100, 200, 100]]
    )


def test_at_least_keeps_sides_of_exactly_the_minimum():
    given = jnp.array([[0.0, 0, 2, 2], [0, 0, 1.5, 9], [0, 0, 9, 1.5], [3, 3, 3, 3]])
    np.testing.assert_array_equal(boxes.has_min_side(given, 2.0), [True, False, False, False])


def test_shrinking_is_limited_where_the_config_says_so():
    """A side of 100 with dw = -10: MMDetection leaves 1.6, the others exp(-10) of it."""
    anchor, deltas = jnp.array([[0.0, 0, 100, 100]]), jnp.array([[0.0, 0, -10, 10]])
    for limited, width in ((False, 100 * np.exp(-10)), (True, 1.6)):
        ((x0, y0, x1, y1),) = np.asarray(boxes.decode(deltas, anchor, (1.0,) * 4, limited))
        np.testing.assert_allclose([x1 - x0, y1 - y0], [width, 6250], rtol=1e-2)


def test_boxes_with_an_area():
    given = jnp.array([[0.0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [2, 0, 1, 1], [0, 0, 1e-6, 1]])
    assert boxes.has_area(given).tolist() == [True, False, False, False, True]
