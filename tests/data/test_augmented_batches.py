"""Batches with all transforms are a pure function of the seed and the step."""

import json

import jax
import numpy as np
import pytest

from maskrcnn_jax.data import pipeline
from maskrcnn_jax.data.lost_images import LostImages
from tests.data.test_pipeline import MIXED, _assert_equal, _config, _Discs, _first

SQUARES = ((96, 96),)
EVERYTHING = {
    "crop_fraction": (0.5, 1.0),
    "vertical_flip": 0.5,
    "quarter_turn": 0.5,
    "copy_paste": 0.8,
    "distortion": 0.5,
    "max_instances": 8,
    "buckets": SQUARES,
}
JITTERED = EVERYTHING | {"jitter": (0.1, 2.0), "jitter_side": 96}


def batches(settings, count=3, dataset=None, seed=5, **options):
    dataset = _Discs(MIXED) if dataset is None else dataset
    made = pipeline.train_batches(dataset, _config(**settings), batch_size=4, seed=seed, **options)
    return _first(made, count)


@pytest.fixture(scope="module")
def whole():
    return {name: batches(settings) for name, settings in KINDS.items()}


KINDS = {"multi-scale": EVERYTHING, "jitter": JITTERED, "full": JITTERED | {"mask_store": "full"}}


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_threads_and_the_first_step_do_not_matter(kind, whole):
    for rows in ([0, 2], [3]):
        part = batches(KINDS[kind] | {"num_threads": 3}, rows=rows)
        for ours, theirs in zip(part, whole[kind], strict=True):
            jax.tree.map(
                lambda a, b, rows=rows: np.testing.assert_array_equal(a, b[rows]), ours, theirs
            )
    _assert_equal(batches(KINDS[kind], 1, start_step=2)[0], whole[kind][2])


def test_the_seed_and_the_step_matter(whole):
    other = batches(EVERYTHING, seed=6)
    images = [x.images for x in (*whole["multi-scale"], *other)]
    assert len({image.tobytes() for image in images}) == 6


@pytest.mark.parametrize(
    "field, off", [("crop_fraction", ()), ("quarter_turn", 0.0), ("distortion", 0.0)]
)
def test_a_transform_less_leaves_the_draws_of_copy_paste(field, off, whole):
    rest = batches(JITTERED | {field: off})
    for ours, theirs in zip(rest, whole["jitter"], strict=True):
        np.testing.assert_array_equal(ours.image_id, theirs.image_id)
        if field == "distortion":
            _assert_equal(ours._replace(images=0), theirs._replace(images=0))
            assert not np.array_equal(ours.images, theirs.images)


def test_pasted_masks_overlap_nothing_and_fit_their_boxes(whole):
    num_objects = 0
    for batch in whole["full"]:
        for masks, boxes, valid in zip(
            batch.instances.masks.values, batch.instances.boxes, batch.instances.valid, strict=True
        ):
            num_objects += valid.sum()
            for mask, box in zip(masks[valid], boxes[valid], strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert abs(found - box).max() < 3
    assert num_objects > 15


class Fading(_Discs):
    """A data set of which one image cannot be read."""

    def __getitem__(self, index):
        if index == 2:
            raise OSError("image id 102: gone")
        return super().__getitem__(index)


def test_nothing_is_pasted_from_an_image_that_cannot_be_read(tmp_path):
    settings = JITTERED | {"copy_paste": 1.0}
    lost = batches(settings, 6, Fading(MIXED), lost=LostImages(tmp_path))
    read = batches(settings, 6)
    changed, steps = 0, set()
    for step, (ours, theirs) in enumerate(zip(lost, read, strict=True), start=1):
        differ = (ours.images != theirs.images).any((1, 2, 3))
        changed += int((differ & (theirs.image_id != 102)).sum())
        steps |= {step} if differ.any() else set()
    assert 0 < changed < 12
    lines = (tmp_path / "lost_images.0.jsonl").read_text().splitlines()
    recorded = {json.loads(line)["step"] for line in lines}
    assert steps <= recorded and min(recorded) >= 1  # The log counts steps from 1.
    # The record repeats that, also if the image can be read again.
    again = batches(settings, 6, lost=LostImages(tmp_path))
    for ours, theirs in zip(again, lost, strict=True):
        _assert_equal(ours, theirs)
    with pytest.raises(OSError, match="image id 102: gone"):
        batches(settings, 6, Fading(MIXED))


def test_without_masks_boxes_are_augmented():
    class Boxes(_Discs):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return example._replace(masks=[None] * len(example.masks))

    for batch in batches(JITTERED, 2, Boxes(MIXED), masks=False):
        assert batch.instances.masks is None and batch.instances.valid.any()
        boxes = batch.instances.boxes[batch.instances.valid]
        assert (boxes[:, 2:] - boxes[:, :2] > 0).all() and boxes.min() >= 0 and boxes.max() <= 96


def test_images_without_objects_are_augmented():
    for batch in batches(JITTERED, 2, _Discs(MIXED, num_objects=0)):
        assert not batch.instances.valid.any() and batch.images.any()
