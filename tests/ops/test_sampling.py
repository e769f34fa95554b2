"""Sampling: numbers of samples, no repetition, fairness, and independence of padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import sampling


@partial(jax.jit, static_argnames=("num_samples", "max_positives"))
def sample(key, labels, num_samples, max_positives):
    priority = sampling.priorities(key, jnp.arange(len(labels)))
    return sampling.sample(
        priority, labels == 1, labels == 0, num_samples=num_samples, max_positives=max_positives
    )


def draw(seed, labels, num_samples, max_positives):
    return jax.tree.map(
        np.asarray, sample(jax.random.key(seed), np.array(labels), num_samples, max_positives)
    )


@pytest.mark.parametrize(
    "num_positives, num_negatives, expected_positives, expected_negatives",
    [
        (30, 30, 4, 12),  # Enough of both.
        (2, 30, 2, 14),  # Negatives fill up for missing positives.
        (30, 3, 4, 3),  # Positives never fill up for missing negatives.
        (0, 30, 0, 16),
        (30, 0, 4, 0),
        (1, 2, 1, 2),
        (0, 0, 0, 0),
        (4, 12, 4, 12),
    ],
)
def test_counts(num_positives, num_negatives, expected_positives, expected_negatives):
    rng = np.random.default_rng(0)
    ignored = 80 - num_positives - num_negatives  # One length for all cases: one compilation.
    labels = rng.permutation([1] * num_positives + [0] * num_negatives + [-1] * ignored)
    indices, positive, valid = draw(1, labels, num_samples=16, max_positives=4)
    assert indices.shape == positive.shape == valid.shape == (16,)
    assert positive.sum() == expected_positives
    assert valid.sum() == expected_positives + expected_negatives
    np.testing.assert_array_equal(positive, np.arange(16) < expected_positives)  # They come first.
    np.testing.assert_array_equal(valid, np.arange(16) < valid.sum())
    np.testing.assert_array_equal(labels[indices[positive]], 1)
    np.testing.assert_array_equal(labels[indices[valid & ~positive]], 0)
    assert len(set(indices[valid])) == valid.sum()
    assert (0 <= indices).all() and (indices < len(labels)).all()


def test_fewer_candidates_than_slots():
    indices, positive, valid = draw(0, [0, 1, 0], num_samples=16, max_positives=8)
    assert set(indices[valid]) == {0, 1, 2} and positive.sum() == 1 and (indices < 3).all()


def test_every_candidate_is_equally_likely():
    labels = np.array([1] * 20 + [0] * 40)
    keys = jax.random.split(jax.random.key(0), 2000)
    indices, _, valid = jax.vmap(lambda key: sample(key, jnp.asarray(labels), 15, 5))(keys)
    assert valid.all()
    drawn = np.bincount(np.asarray(indices).reshape(-1), minlength=60)
    assert drawn[:20].sum() == 5 * 2000 and drawn[20:].sum() == 10 * 2000
    # Both kinds are drawn with probability 1/4: five standard deviations of a binomial.
    np.testing.assert_allclose(drawn, 500, atol=5 * (2000 * 0.25 * 0.75) ** 0.5)


def test_priorities_belong_to_positions():
    key = jax.random.key(5)
    few, many = (np.asarray(jax.jit(sampling.priorities)(key, np.arange(n))) for n in (10, 1000))
    np.testing.assert_array_equal(few, many[:10])
    assert len(set(many)) == 1000
    assert (few != np.asarray(sampling.priorities(jax.random.key(6), jnp.arange(10)))).all()


def test_priorities_take_old_style_keys():
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    np.testing.assert_array_equal(
        sampling.priorities(old, jnp.arange(9)), sampling.priorities(new, jnp.arange(9))
    )


def test_ineligible_positions_change_no_draw():
    labels = np.array([1, 0, 0, 1, 0, 1, 0, 0] * 4)
    indices, positive, valid = draw(2, labels, num_samples=10, max_positives=5)
    padded = draw(2, np.concatenate([labels, np.full(50, -1)]), num_samples=10, max_positives=5)
    for a, b in zip((indices, positive, valid), padded, strict=True):
        np.testing.assert_array_equal(a, b)


@jax.jit
def weighted(keys, weights, count):
    return jax.vmap(lambda key: sampling.weighted(key, weights, count))(keys)


def test_weighted_draws_have_the_probabilities_of_successive_draws():
    """Draw i first, then j of the others, each by its weight; 5 standard deviations."""
    weights, num_draws = np.float32([4, 2, 0, 1, 3]), 4000
    share = weights / weights.sum()
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = np.zeros((5, 5))
    for i, j in pairs:
        expected[min(i, j), max(i, j)] += share[i] * share[j] / (1 - share[i])
    drawn = np.asarray(weighted(jax.random.split(jax.random.key(0), num_draws), weights, 2))
    assert (drawn.sum(1) == 2).all() and not drawn[:, 2].any()
    found = np.zeros((5, 5))
    for row in drawn:
        i, j = np.flatnonzero(row)
        found[i, j] += 1 / num_draws
    deviation = np.sqrt(expected * (1 - expected) / num_draws)
    assert (np.abs(found - expected) <= 5 * deviation).all()


@pytest.mark.parametrize("count, expected", [(-2, 0), (0, 0), (1, 1), (3, 3), (9, 4)])
def test_weighted_draws_no_more_than_there_are(count, expected):
    keys = jax.random.split(jax.random.key(1), 8)
    drawn = np.asarray(weighted(keys, np.float32([0, 1, 1e-6, 5, 9]), count))
    assert (drawn.sum(1) == expected).all() and not drawn[:, 0].any()


def test_a_weighted_draw_does_not_depend_on_further_candidates():
    keys = jax.random.split(jax.random.key(2), 8)
    few = np.asarray(weighted(keys, np.float32([1, 2, 3, 4]), 2))
    more = np.asarray(weighted(keys, np.float32([1, 2, 3, 4, 0, 0]), 2))
    np.testing.assert_array_equal(few, more[:, :4])
