"""Several training sets: one list of categories, images of all sets, shares by weights."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import config_check, settings
from maskrcnn_jax.cli import config_file
from maskrcnn_jax.config import Config, DataConfig, TrainSet
from maskrcnn_jax.data import coco_instances, joint, pipeline, schedule, sources, streams
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.prepared import PreparedDataset

OUTLINE = [[2, 2, 18, 2, 18, 12, 2, 12]]


def write(folder, names, count, *, first_id=1, grey=50):
    """Writes images of 20x24, each with an object of every category; returns folder and json."""
    folder.mkdir()
    content = {
        "images": [
            {"id": first_id + i, "file_name": f"{i}.png", "height": 20, "width": 24}
            for i in range(count)
        ],
        "categories": [{"id": 5 + i, "name": name} for i, name in enumerate(names)],
        "annotations": [],
    }
    for i in range(count):
        Image.new("RGB", (24, 20), (grey, i, 0)).save(folder / f"{i}.png")
        for category in content["categories"]:
            about = {"id": len(content["annotations"]) + 1, "image_id": first_id + i}
            about |= {"category_id": category["id"], "bbox": [2, 2, 16, 10], "iscrowd": 0}
            content["annotations"].append(about | {"segmentation": OUTLINE})
    (folder / "a.json").write_text(json.dumps(content))
    return str(folder), str(folder / "a.json")


@pytest.fixture
def two(tmp_path):
    """Sets of 3 and 2 images, whose ids are equal and whose categories overlap."""
    first = write(tmp_path / "a", ["cat", "dog"], 3, grey=10)
    second = write(tmp_path / "b", ["dog", "bird"], 2, grey=20)
    return DataConfig(train=(TrainSet(*first, 3.0), (*second, 1.0)))


def test_categories_are_joined_by_name(two):
    dataset = sources.open_train(two)
    # The id 5 of dog is that of the first set with the name; the id 6 of bird is taken by it.
    assert dataset.categories == Categories((5, 6, 7), ("cat", "dog", "bird"))
    assert dataset[0].classes.tolist() == [1, 2] and dataset[3].classes.tolist() == [2, 3]
    assert [x.tolist() for x in dataset.labels] == 3 * [[1, 2]] + 2 * [[2, 3]]


def test_images_are_numbered_over_all_sets(two):
    dataset = sources.open_train(two)
    assert len(dataset) == 5 and dataset.image_ids.tolist() == [1, 2, 3, 4, 5]
    assert [dataset[i].image_id for i in range(5)] == [1, 2, 3, 4, 5]
    assert [dataset[i].image[0, 0, :2].tolist() for i in (0, 2, 3, 4)] == [
        [10, 0],
        [10, 2],
        [20, 0],
        [20, 1],
    ]
    assert dataset.sizes.tolist() == 5 * [[20, 24]]
    rest = dataset.without([2, 4])
    assert rest.image_ids.tolist() == [1, 3, 5] and rest[1].image_id == 3
    assert rest[2].image[0, 0].tolist() == [20, 1, 0] and len(rest.sizes) == len(rest.labels) == 3


def test_annotations_have_the_ids_of_the_joint_set(two):
    content = sources.open_train(two).annotations()
    assert [x["id"] for x in content["images"]] == [1, 2, 3, 4, 5]
    found = [(x["image_id"], x["category_id"]) for x in content["annotations"]]
    assert found == [(i, c) for i in (1, 2, 3) for c in (5, 6)] + [
        (i, c) for i in (4, 5) for c in (6, 7)
    ]
    assert [x["id"] for x in content["annotations"]] == list(range(1, 11))
    assert [x["name"] for x in content["categories"]] == ["cat", "dog", "bird"]


def test_the_labels_of_a_model_come_first(two):
    model = Categories((1, 2, 3, 4), ("Bird", "cow", "cat", "dog"))
    dataset = sources.open_train(two, model)
    assert dataset[0].classes.tolist() == [3, 4] and dataset[4].classes.tolist() == [4, 1]
    with pytest.raises(ValueError, match="the model does not know category 7 'bird'"):
        sources.open_train(two, Categories((1, 2), ("cat", "dog")))


def test_prepared_images_beside_json(two, tmp_path):
    folder, annotations = two.train[1][:2]
    whole = CocoDataset(folder, annotations, keep_empty=True, masks=False)
    coco_instances.prepare(whole, "train", tmp_path / "out", lambda count: None)
    direct = sources.open_train(two)
    two.train = (two.train[0], TrainSet(str(tmp_path / "out")))
    mixed = sources.open_train(two)
    assert mixed.weights.tolist() == [3, 1] and mixed.categories == direct.categories
    assert isinstance(mixed._sets[1], PreparedDataset)
    for a, b in zip(mixed, direct, strict=True):
        assert a.image_id == b.image_id and a.classes.tolist() == b.classes.tolist()
        np.testing.assert_array_equal(a.image, b.image)


@pytest.mark.parametrize(
    "second, message",
    [
        (["dog", "Cat"], "b/a.json has the category 'Cat', and .*a/a.json has 'cat': give both"),
        (["dog", "dog"], "b/a.json has two categories 'dog'"),
    ],
)
def test_names_that_cannot_be_joined(two, tmp_path, second, message):
    (tmp_path / "b").rename(tmp_path / "old")
    write(tmp_path / "b", second, 2)
    with pytest.raises(ValueError, match=f"data.train: .*{message}"):
        sources.open_train(two)


def test_a_set_without_images_is_named(two, tmp_path):
    (tmp_path / "b").rename(tmp_path / "old")
    write(tmp_path / "b", ["dog"], 0)
    with pytest.raises(ValueError, match="data.train: a set has no images: .*b/a.json has 0"):
        sources.open_train(two)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_weights_are_above_0(weight):
    config = Config()
    config.data.train = (TrainSet("a", "a.json"), TrainSet("b", "b.json", weight))
    message = r"data.train must be sets \(images, annotations, weight\) with weights above 0; got"
    with pytest.raises(ValueError, match=message):
        config_check.check(config)


def test_sets_are_given_on_the_command_line_and_kept():
    config = Config()
    config_file.override(config, "data.train=(('a', 'a.json', 2.0), ('b', '', 1))")
    config_check.check(config)
    assert TrainSet(*config.data.train[0]) == TrainSet("a", "a.json", 2.0)
    config.data.train = (TrainSet("a"),)
    config_check.check(config)
    values = json.loads(json.dumps(settings.to_dict(config)))
    assert settings.from_dict(Config, values).data.train == (("a", "", 1.0),)
    config.data.train = (("a", "a.json"),)
    with pytest.raises(ValueError, match="data.train must be of type"):
        config_check.check(config)


def test_a_bad_image_is_named_with_its_set(two, tmp_path):
    dataset = sources.open_train(two)
    (tmp_path / "b" / "1.png").write_text("no image")
    for read in (dataset.check, dataset.__getitem__):
        with pytest.raises(OSError, match=r"b/a.json: image id 2: .*b/1.png"):
            read(4)


# The schedule.


def mixture(members, counts, weights):
    sets = np.repeat(np.arange(len(counts)), counts)
    return streams.mixture(members, sets, np.array(weights, float))


def drawn(members, mixed, steps, batch_size=4, seed=0):
    images = streams.streams(members, seed, mixture=mixed)
    return [schedule.schedule(step, images, batch_size) for step in range(steps)]


def test_sets_are_seen_by_their_weights_and_images_of_a_set_equally():
    """Lying images of both sets in one bucket, upright ones of the first in another."""
    counts, weights = (30, 10), (1, 3)
    members = [np.arange(20, 40), np.arange(20)]
    mixed = mixture(members, counts, weights)
    assert mixed.counts == ((10, 10), (20, 0)) and mixed.quotas == ((83, 750), (167, 0))
    found = drawn(members, mixed, 150, batch_size=16)
    images = np.concatenate([indices for _, indices in found])
    seen = np.bincount(images, minlength=40)
    assert abs(seen[30:].sum() / len(images) - 0.75) < 0.02
    for own in (seen[:20], seen[20:30], seen[30:]):
        assert own.max() - own.min() <= 1  # At any step, not only after an epoch.
    assert all(np.isin(indices, members[bucket]).all() for bucket, indices in found)


def test_the_schedule_of_sets_is_a_function_of_seed_and_step():
    members = [np.arange(25)]
    mixed = mixture(members, (20, 5), (1, 1))
    first = drawn(members, mixed, 50)
    for step in (49, 0, 17):
        again = schedule.schedule(step, streams.streams(members, 0, mixture=mixed), 4)
        assert again[0] == first[step][0] and again[1].tolist() == first[step][1].tolist()
    other = drawn(members, mixed, 50, seed=1)
    assert [x.tolist() for _, x in first] != [x.tolist() for _, x in other]


def test_each_pass_through_a_set_has_another_order():
    members = [np.arange(30)]
    mixed = mixture(members, (20, 10), (1, 1))
    images = np.concatenate([indices for _, indices in drawn(members, mixed, 30)])
    own = images[images >= 20]
    first, second = own[:10].tolist(), own[10:20].tolist()
    assert sorted(first) == sorted(second) == list(range(20, 30)) and first != second


def test_an_epoch_mixes_the_sets():
    members = [np.arange(60)]
    mixed = mixture(members, (40, 20), (1, 1))
    shares = [np.mean(indices >= 40) for _, indices in drawn(members, mixed, 40, batch_size=50)]
    assert 0.2 < min(shares) and max(shares) < 0.8


def test_a_set_of_which_nothing_is_left_is_refused():
    with pytest.raises(ValueError, match="data.train: no image is left of set 2"):
        mixture([np.arange(3)], (3, 0), (1, 1))


def test_batches_resume_and_hosts_share_rows(two):
    two.short_sides, two.buckets, two.num_threads = (20,), ((32, 32),), 1
    two.max_instances = 4
    dataset = sources.open_train(two)

    def batches(start, rows=None):
        made = pipeline.train_batches(
            dataset, two, batch_size=4, seed=5, start_step=start, rows=rows
        )
        return [next(made) for _ in range(3 - start)]

    whole, resumed = batches(0), batches(2)
    np.testing.assert_array_equal(whole[2].images, resumed[0].images)
    np.testing.assert_array_equal(whole[2].image_id, resumed[0].image_id)
    halves = [batches(0, rows) for rows in ((0, 1), (2, 3))]
    for step in range(3):
        parts = [half[step] for half in halves]
        np.testing.assert_array_equal(
            whole[step].image_id, np.concatenate([x.image_id for x in parts])
        )
        np.testing.assert_array_equal(whole[step].images, np.concatenate([x.images for x in parts]))


def test_join_alone():
    sets = [("a", Categories((3, 1), ("x", "y"))), ("b", Categories((1, 9), ("z", "x")))]
    assert joint.join(sets) == Categories((3, 1, 4), ("x", "y", "z"))
