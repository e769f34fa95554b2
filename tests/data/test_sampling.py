"""Expected counts of images, and their random rounding, against the definitions."""

import numpy as np
import pytest

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import sampling, schedule
from maskrcnn_jax.data.streams import mixture, streams

LABELS = [
    np.array(own, int)
    for own in ([1, 1, 2], [1], [1, 3], [], [1], [1, 2], [1], [1], [1, 4], [4, 4])
]


def test_repeat_factors_by_hand():
    # Class 1 is in 8 of the 10 images, classes 2 and 4 are in 2 each, class 3 is in 1.
    rare, rarest = np.sqrt(0.4 / 0.2), np.sqrt(0.4 / 0.1)
    expected = [rare, 1, rarest, 1, 1, rare, 1, 1, rare, rare]
    np.testing.assert_allclose(sampling.repeat_factors(LABELS, 0.4), expected)
    np.testing.assert_array_equal(sampling.repeat_factors(LABELS, 0.0), np.ones(10))


def test_class_balanced_equals_two_uniform_draws():
    """A class among the four and "no object", then one of its images."""
    images_of = {c: [i for i, x in enumerate(LABELS) if c in x] for c in (1, 2, 3, 4)}
    images_of[0] = [3]
    probability = np.zeros(10)
    for images in images_of.values():
        probability[images] += 1 / 5 / len(images)
    np.testing.assert_allclose(sampling.class_balanced(LABELS), 10 * probability)
    assert sampling.class_balanced(LABELS).mean() == pytest.approx(1)


def test_the_setting_chooses():
    assert sampling.expected(LABELS, DataConfig()) is None
    config = DataConfig(sampling="repeat_factor", repeat_threshold=0.4)
    assert sampling.expected(LABELS, config)[2] == pytest.approx(2)
    balanced = sampling.expected(LABELS, DataConfig(sampling="class_balanced"))
    np.testing.assert_array_equal(balanced, sampling.class_balanced(LABELS))


def test_rounding_goes_down_or_up_with_the_right_expectation():
    repeats = np.array([1, 1.25, 1, 2.5, 1, 0.3, 1.7, 1.25])
    random = np.random.default_rng(0)
    drawn = np.array([sampling.rounded(repeats, random) for _ in range(4000)])
    assert (drawn.sum(axis=1) == sampling.length(np.arange(8), repeats)).all()
    assert (drawn >= np.floor(repeats)).all() and (drawn <= np.ceil(repeats)).all()
    np.testing.assert_allclose(drawn.mean(axis=0), repeats, atol=0.03)


def test_rounding_without_images_and_of_a_small_sum():
    random = np.random.default_rng(0)
    assert len(sampling.rounded(np.zeros(0), random)) == 0
    assert sampling.length(np.zeros(0, int), np.ones(3)) == 0
    drawn = [sampling.rounded(np.array([0.1, 0.2]), random) for _ in range(300)]
    assert all(x.sum() == 1 for x in drawn)
    assert 0.5 < np.mean([x[1] for x in drawn]) < 0.8


def counts_of(images, steps, batch_size=4, size=10):
    drawn = [schedule.schedule(step, images, batch_size)[1] for step in range(steps)]
    return np.bincount(np.concatenate(drawn), minlength=size)


def test_training_sees_images_as_often_as_expected():
    repeats = sampling.repeat_factors(LABELS, 0.4)
    members = [np.array([0, 2, 4, 6, 8]), np.array([1, 3, 5, 7, 9])]
    counts = counts_of(streams(members, 0, repeats=repeats), 3000)
    np.testing.assert_allclose(counts / counts.sum(), repeats / repeats.sum(), atol=0.006)


def test_a_step_does_not_depend_on_the_steps_before_it():
    repeats = sampling.class_balanced(LABELS)
    members = [np.arange(10)]
    whole = [schedule.schedule(i, streams(members, 3, repeats=repeats), 4) for i in range(40)]
    images = streams(members, 3, repeats=repeats)
    for step in (39, 0, 17):
        assert schedule.schedule(step, images, 4)[1].tolist() == whole[step][1].tolist()
    other = streams(members, 4, repeats=repeats)
    assert [schedule.schedule(i, other, 4)[1].tolist() for i in range(40)] != [
        x.tolist() for _, x in whole
    ]


def test_sets_keep_their_shares_and_images_of_a_set_their_repeats():
    repeats = np.array([1, 1, 1, 3, 1, 1, 1, 1, 2, 1.0])
    members, weights = [np.arange(10)], np.array([1.0, 1.0])
    mixed = mixture(members, np.repeat([0, 1], [4, 6]), weights)
    counts = counts_of(streams(members, 0, mixture=mixed, repeats=repeats), 3000)
    share = counts / counts.sum()
    np.testing.assert_allclose(share[:4], [1 / 12, 1 / 12, 1 / 12, 1 / 4], atol=0.006)
    np.testing.assert_allclose(share[4:], np.array([1, 1, 1, 1, 2, 1]) / 14, atol=0.006)


def test_class_frequencies_count_images_and_not_objects():
    labels = [np.array(x, int) for x in ([1, 1, 3], [3], [], [5])]
    assert sampling.class_frequencies(labels, 7) == (1.0, 0.0, 2.0, 0.0, 1.0, 0.0)
    assert sampling.class_frequencies([], 3) == (0.0, 0.0)
