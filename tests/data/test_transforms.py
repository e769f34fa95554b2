"""The order of transforms, and their random draws."""

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data import transforms
from tests.data import objects


def sample():
    return samples.whole(objects.make_example([objects.disc(40, 50, 12, 30, 9)]))


def test_flips_follow_their_probabilities():
    given = sample()
    stages = transforms.standard(DataConfig(horizontal_flip=0.5, vertical_flip=0.1))
    horizontal = vertical = 0
    for seed in range(400):
        mask = transforms.apply(stages, (seed,), given).masks[0]
        horizontal += mask.columns.mirrored
        vertical += mask.rows.mirrored
    assert 160 < horizontal < 240 and 15 < vertical < 70
    assert list(stages) == ["horizontal_flip", "vertical_flip"]


def test_each_has_a_generator_of_its_own_that_depends_on_the_seed_and_its_name():
    drawn = {}

    def record(name):
        def transform(rng, sample):
            drawn.setdefault(name, []).append(rng.random())
            return sample

        return transform

    stages = {name: record(name) for name in ("a", "b", "c")}
    transforms.apply(stages, (1, 2), sample())
    # The order differs, and one transform is missing.
    transforms.apply({"c": stages["c"], "a": stages["a"]}, (1, 2), sample())
    transforms.apply(stages, (1, 3), sample())
    assert drawn["a"][0] == drawn["a"][1] and drawn["c"][0] == drawn["c"][1]
    assert len({*drawn["a"], *drawn["b"], *drawn["c"]}) == 6


def test_transforms_come_in_their_order():
    seen = []
    stages = {
        name: lambda rng, sample, name=name: seen.append(name) or sample for name in ("z", "a", "m")
    }
    transforms.apply(stages, (0,), sample())
    assert seen == ["z", "a", "m"]
