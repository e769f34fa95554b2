"""Endless streams of training images, one for each bucket: pure functions of the seed.

A stream is cut into epochs. Without weights each epoch is a permutation of the images of its
bucket. `Mixture` weighs several data sets, and repeats weigh single images; see `sampling`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from maskrcnn_jax.data import sampling

_SHORTEST_EPOCH = 1000  # Images, of several sets: shorter ones would round their shares.

# The second number of a seed separates the kinds of random draws: 0 for the order of buckets,
# 1 for permutations, 2 for the transforms of an image, 3 for permutations of one of several sets.


class Mixture(NamedTuple):
    """The images of several training sets in each bucket: a row for each bucket, one number a set.

    In each bucket the images of the first set come first.
    """

    counts: tuple[tuple[int, ...], ...]  # Images of each set.
    quotas: tuple[tuple[int, ...], ...]  # Images that an epoch takes of each set.


def mixture(
    members: Sequence[Int[np.ndarray, " _"]],
    set_of_image: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " s"],
) -> Mixture:
    """How often images of each set are seen, by the weights of the sets.

    A set with the share p of all weights gives the share p of the images of an epoch, divided over
    the buckets as its images are. Rounding changes a share by less than a hundredth.

    Args:
        members: The images of each bucket, from `train_members`.
        set_of_image: The position of the set of every image, ascending.
        weights: The weight of each set.

    Raises:
        ValueError: No image of a set is left.
    """
    own = [np.bincount(set_of_image[x], minlength=len(weights)) for x in members]
    counts = np.array(own).reshape(-1, len(weights))
    totals = counts.sum(axis=0)
    if not totals.all():
        raise ValueError(f"data.train: no image is left of set {int(totals.argmin()) + 1}")
    length = max(int(totals.sum()), _SHORTEST_EPOCH)
    quotas = np.rint(length * weights / weights.sum() / totals * counts).astype(int)
    quotas = np.where(counts > 0, np.maximum(quotas, 1), 0)
    return Mixture(*(tuple(map(tuple, x.tolist())) for x in (counts, quotas)))


class Streams(NamedTuple):
    """The streams of all buckets."""

    counts: tuple[int, ...]  # Images of an epoch of each bucket.
    epoch: Callable[[int, int], Int[np.ndarray, " _"]]  # Indices by bucket and number of the epoch.
    seed: int


def streams(
    members: Sequence[Int[np.ndarray, " _"]],
    seed: int,
    *,
    mixture: Mixture | None = None,
    repeats: Float[np.ndarray, " n"] | None = None,
) -> Streams:
    """Makes the streams of the images of each bucket.

    Args:
        members: Indices of the images of each bucket. At least one bucket is not empty.
        seed: Seed of all permutations.
        mixture: The numbers of several sets. An epoch then takes its quota of each set, in random
            order, from an endless stream of the set.
        repeats: How often each image of the data set is expected in an epoch, or in a cycle of its
            set; by default once. `sampling.rounded` draws whole numbers for each cycle.
    """
    sets = [[x] for x in members]
    if mixture is not None:
        pairs = zip(members, mixture.counts, strict=True)
        sets = [np.split(x, np.cumsum(counts)[:-1]) for x, counts in pairs]
    lengths = [[sampling.length(x, repeats) for x in own] for own in sets]

    @functools.lru_cache(maxsize=64)
    def cycle(bucket: int, which: int, number: int) -> Int[np.ndarray, " _"]:
        kind = (1, bucket) if mixture is None else (3, bucket, which)
        random, images = np.random.default_rng((seed, *kind, number)), sets[bucket][which]
        if repeats is not None:
            images = np.repeat(images, sampling.rounded(repeats[images], random))
        return images[random.permutation(len(images))]

    @functools.lru_cache(maxsize=16)
    def epoch(bucket: int, number: int) -> Int[np.ndarray, " _"]:
        if mixture is None:
            return cycle(bucket, 0, number)
        quotas = mixture.quotas[bucket]
        order, ranks = _set_order(quotas, np.random.default_rng((seed, 1, bucket, number)))
        images = np.empty(len(order), np.int64)
        for which, quota in enumerate(quotas):
            places = order == which
            cycles, rest = np.divmod(number * quota + ranks[places], lengths[bucket][which] or 1)
            drawn = [cycle(bucket, which, int(n))[i] for n, i in zip(cycles, rest, strict=True)]
            images[places] = drawn
        return images

    counts = tuple(map(sum, lengths if mixture is None else mixture.quotas))
    return Streams(counts, epoch, seed)


def _set_order(
    quotas: tuple[int, ...], random: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The set of each place of an epoch, and how many earlier places have the same set.

    The places of a set are spread evenly, each at random in its own part of the epoch, so the
    shares hold in any part of an epoch.
    """
    ranks = np.concatenate([np.arange(quota) for quota in quotas])
    lengths = np.repeat(quotas, quotas)
    order = np.argsort((ranks + random.random(len(ranks))) / lengths, kind="stable")
    return np.repeat(np.arange(len(quotas)), quotas)[order], ranks[order]
