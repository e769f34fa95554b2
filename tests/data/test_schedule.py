"""Which images a step sees: the bucket of each image, and the order of batches."""

from collections import Counter

import numpy as np
import pytest

from maskrcnn_jax import resizing
from maskrcnn_jax.data import schedule
from maskrcnn_jax.data.streams import streams
from tests.data.test_pipeline import BUCKETS, MIXED, _config, _Discs


def _members(*counts):
    ends = np.cumsum(counts)
    return [np.arange(end - count, end) for count, end in zip(counts, ends, strict=True)]


def test_images_go_to_the_bucket_that_holds_them_at_the_largest_scale():
    members = schedule.train_members(_Discs(MIXED), _config())
    for index, (height, width) in enumerate(MIXED):
        size = resizing.resized_size((height, width), 64, 96)
        bucket = BUCKETS.index(resizing.bucket_for(size, BUCKETS))
        assert [index in indices for indices in members] == [i == bucket for i in range(3)]


@pytest.mark.parametrize(
    "counts, batch_size", [((12, 7), 4), ((5,), 5), ((1, 20), 8), ((3, 0, 2), 16), ((9, 4), 1)]
)
def test_every_epoch_shows_every_image(counts, batch_size):
    members, seen, step = _members(*counts), Counter(), 0
    for epoch in range(1, 6):
        while sum(-(-epoch * count // batch_size) for count in counts) > step:
            bucket, indices = schedule.schedule(step, streams(members, 3), batch_size)
            assert len(indices) == batch_size and set(indices) <= set(members[bucket])
            seen.update(indices.tolist())
            step += 1
        assert min(seen[index] for index in range(sum(counts))) >= epoch
        for indices in members:
            times = [seen[index] for index in indices.tolist()]
            # Only images that fill the last batch of an epoch are seen early, and the counts of two
            # images differ by at most one.
            assert sum(times) - epoch * len(times) < batch_size
            assert not times or max(times) - min(times) <= 1


def test_the_order_is_a_function_of_seed_and_step():
    members = _members(11, 6, 3)

    def order(steps, seed):
        return [
            (bucket, *indices.tolist()) for bucket, indices in (_at(step, seed) for step in steps)
        ]

    def _at(step, seed):
        return schedule.schedule(step, streams(members, seed), 4)

    forwards = order(range(40), seed=0)
    assert order(reversed(range(40)), seed=0) == forwards[::-1]
    assert order(range(40), seed=1) != forwards
    assert forwards[:6] != forwards[6:12]
    assert len({bucket for bucket, *_ in forwards[:6]}) == 3


def test_each_epoch_has_its_own_permutation():
    epochs = [
        schedule.schedule(epoch, streams(_members(20), 0), 20)[1].tolist() for epoch in range(4)
    ]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


def test_buckets_are_mixed_within_an_epoch():
    members = _members(40, 40)
    order = [schedule.schedule(step, streams(members, 0), 4)[0] for step in range(20)]
    assert sum(order) == 10 and order != sorted(order) and order != sorted(order, reverse=True)


def test_a_late_step_is_as_cheap_as_the_first():
    members = _members(3, 1)
    bucket, indices = schedule.schedule(10_000_000, streams(members, 0), 16)
    assert set(indices) <= set(members[bucket])


@pytest.mark.parametrize("field", ["buckets", "test_buckets"])
def test_both_data_sets_are_checked(field):
    fitting, both = _Discs([(60, 60)]), _Discs([(60, 60), (50, 100)])
    config = _config(**{field: ((64, 64),)})
    sets = (both, fitting) if field == "buckets" else (fitting, both)
    with pytest.raises(ValueError, match=rf"data\.{field}: image id 101 of 50x100 pixels"):
        schedule.check_sizes(*sets, config)
    schedule.check_sizes(fitting, fitting, config)


def test_a_crop_is_what_has_to_fit_in_training():
    config = _config(crop_size=40, buckets=((64, 64),))
    (members,) = schedule.train_members(_Discs([(300, 40), (40, 300)]), config)
    assert members.tolist() == [0, 1]


def test_a_jittered_image_fills_a_square():
    config = _config(jitter=(0.1, 2.0), jitter_side=96, buckets=((64, 96), (96, 96)))
    members = schedule.train_members(_Discs([(50, 100), (10, 10)]), config)
    assert [x.tolist() for x in members] == [[], [0, 1]]


def test_evaluation_takes_its_own_buckets_and_sides():
    config = _config(buckets=((32, 32),), test_short_side=32, test_buckets=((64, 32), (32, 64)))
    members = schedule.eval_members(_Discs([(50, 100), (100, 50), (60, 60)]), config)
    assert [x.tolist() for x in members] == [[1, 2], [0]]


def test_a_data_set_says_why_it_is_empty():
    empty = _Discs([])
    with pytest.raises(ValueError, match="^the data set has no images$"):
        schedule.train_members(empty, _config())
    empty.why_empty = "a.json has 0 usable images"
    with pytest.raises(ValueError, match="data.val_annotations: a.json has 0 usable images"):
        schedule.eval_members(empty, _config())
