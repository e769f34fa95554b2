"""Streams of training images: permutations, repeats and shares, as pure functions of the seed."""

import itertools

import numpy as np
import pytest

from maskrcnn_jax.data.streams import mixture, streams

MEMBERS = [np.array([0, 2, 3, 7]), np.array([], int), np.array([1, 4, 5, 6, 8])]


def counts(images, length=9):
    return np.bincount(images, minlength=length)


def test_an_epoch_is_a_permutation_of_the_images_of_a_bucket():
    made = streams(MEMBERS, seed=3)
    assert made.counts == (4, 0, 5)
    for bucket, number in itertools.product(range(3), range(3)):
        assert sorted(made.epoch(bucket, number)) == MEMBERS[bucket].tolist()
    orders = {tuple(made.epoch(2, number)) for number in range(20)}
    assert len(orders) > 10


def test_epochs_do_not_depend_on_what_was_asked_before():
    """A run that goes on asks for its epoch alone; here after 20 others, more than are kept."""
    repeats = np.linspace(1, 2.5, 9)
    own = [np.arange(4), np.arange(4, 9)]
    mixed = mixture(own, np.array([0, 0, 1, 1, 1, 1, 1, 1, 1]), np.array([1.0, 2.0]))
    for settings in ({}, {"repeats": repeats}, {"mixture": mixed, "repeats": repeats}):
        first, fresh = (streams(own, seed=5, **settings) for _ in range(2))
        for number in range(20):
            first.epoch(0, number)
        for bucket in (0, 1):
            np.testing.assert_array_equal(first.epoch(bucket, 3), fresh.epoch(bucket, 3))


def test_seeds_buckets_and_epochs_have_draws_of_their_own():
    own = [np.arange(30), np.arange(30)]
    first, other = streams(own, seed=0), streams(own, seed=1)
    orders = [x.epoch(b, n) for x in (first, other) for b in (0, 1) for n in (0, 1)]
    assert len(set(map(tuple, orders))) == 8


def test_the_orders_of_earlier_versions():
    """A run goes on with the same images after an update. NumPy keeps its streams of numbers."""
    assert streams(MEMBERS, seed=3).epoch(2, 1).tolist() == [1, 8, 6, 5, 4]
    repeats = np.array([1, 1, 2.5, 1, 1, 2.6, 1, 1.2, 1])
    assert streams(MEMBERS, seed=3, repeats=repeats).epoch(2, 1).tolist() == [6, 8, 5, 1, 5, 5, 4]
    mixed = mixture(MEMBERS, np.repeat([0, 1], [4, 5]), np.array([1.0, 3.0]))
    assert streams(MEMBERS, seed=3, mixture=mixed).epoch(2, 1)[:12].tolist() == [
        4,
        8,
        6,
        5,
        5,
        6,
        8,
        4,
        1,
        8,
        6,
        1,
    ]


def test_repeats_are_expected_numbers_and_keep_the_length_of_an_epoch():
    repeats = np.array([1, 9, 2.5, 1.3, 9, 9, 9, 1, 9])
    made = streams(MEMBERS, seed=0, repeats=repeats)
    assert made.counts == (6, 0, 45)
    epochs = [counts(made.epoch(0, number)) for number in range(400)]
    assert {x.sum() for x in epochs} == {6}
    expected = np.array([1, 0, 2.5, 1.3, 0, 0, 0, 1, 0]) * 6 / 5.8
    mean = np.mean(epochs, axis=0)
    np.testing.assert_allclose(mean, expected, atol=5 * 0.5 / 400**0.5)
    rounded = np.array(epochs)
    assert ((rounded == np.floor(expected)) | (rounded == np.ceil(expected))).all()


def of_two_sets(weights, **settings):
    """Sets of 4 and 36 images, each in two buckets."""
    members = [np.array([0, 1, *range(4, 30)]), np.array([2, 3, *range(30, 40)])]
    mixed = mixture(members, np.repeat([0, 1], [4, 36]), np.array(weights, float))
    return members, mixed, streams(members, seed=0, mixture=mixed, **settings)


def test_sets_have_their_shares_in_every_part_of_an_epoch():
    members, mixed, made = of_two_sets([1, 3])
    assert mixed.counts == ((2, 26), (2, 10))
    assert np.sum(mixed.quotas, axis=0).tolist() == [250, 750]
    for bucket in (0, 1):
        epoch = made.epoch(bucket, 0)
        quotas = mixed.quotas[bucket]
        assert len(epoch) == made.counts[bucket] == sum(quotas)
        is_first = epoch < 4
        assert is_first.sum() == quotas[0] and set(epoch) == set(members[bucket].tolist())
        parts = np.array_split(is_first, 8)
        assert max(abs(x.mean() - quotas[0] / len(epoch)) for x in parts) < 0.05


def test_the_stream_of_a_set_goes_through_all_its_images_before_one_repeats():
    """Over the borders of epochs too: a cycle is no part of an epoch."""
    _, mixed, made = of_two_sets([1, 3])
    own = np.concatenate([made.epoch(1, number) for number in range(3)])
    own = own[own >= 30]
    assert len(own) == 3 * mixed.quotas[1][1] and mixed.quotas[1][1] % 10
    for start in range(0, len(own) - 10, 10):
        assert sorted(own[start : start + 10]) == list(range(30, 40))


def test_repeats_count_within_a_set():
    repeats = np.ones(40)
    repeats[2], repeats[30] = 3, 5
    _, mixed, made = of_two_sets([1, 1], repeats=repeats)
    found = counts(np.concatenate([made.epoch(1, number) for number in range(4)]), 40)
    first, second = found[[2, 3]], found[30:40]
    assert first.sum() == 4 * mixed.quotas[1][0] and second.sum() == 4 * mixed.quotas[1][1]
    assert first[0] / first.sum() == pytest.approx(3 / 4, abs=0.01)
    assert second[0] / second.sum() == pytest.approx(5 / 14, abs=0.01)


def test_a_small_set_in_a_bucket_keeps_at_least_one_image_of_an_epoch():
    members = [np.arange(0, 2000), np.array([2000])]
    mixed = mixture(members, np.repeat([0, 1], [1000, 1001]), np.array([1.0, 1e-6]))
    assert min(mixed.quotas[0]) >= 1 and mixed.quotas[1] == (0, 1)
