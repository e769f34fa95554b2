"""Images that cannot be read any more: they leave their step, and a resumed run repeats that."""

import json

import jax
import numpy as np
import pytest

from maskrcnn_jax.data import pipeline
from maskrcnn_jax.data.lost_images import LostImages
from tests.data.test_pipeline import BUCKETS, _assert_equal, _config, _Discs, _first

SIZES = [(50, 70), (50, 75), (48, 64), (50, 72), (50, 71)]


class Fading(_Discs):
    """Images of which some cannot be read; ``broken`` holds their ids."""

    def __init__(self, broken=()):
        super().__init__(SIZES)
        self.broken = set(broken)

    def __getitem__(self, index):
        if self.image_ids[index] in self.broken:
            raise OSError(f"image id {self.image_ids[index]}: gone")
        return super().__getitem__(index)


def batches(dataset, count=4, **options):
    made = pipeline.train_batches(dataset, _config(), batch_size=2, seed=3, **options)
    return _first(made, count)


def rows_of(batch, image_id):
    return np.flatnonzero(batch.image_id == image_id)


def test_a_lost_image_leaves_the_others_as_they_are(tmp_path, caplog):
    lost = LostImages(tmp_path)
    whole, rest = batches(_Discs(SIZES)), batches(Fading([102]), lost=lost)
    num_lost = 0
    for before, after in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(before.image_id, after.image_id)
        for row in range(2):
            ours, theirs = (_row(x, row) for x in (after, before))
            if after.image_id[row] == 102:
                num_lost += 1
                assert not any(np.any(x) for x in _leaves(ours._replace(image_id=0)))
            else:
                _assert_equal(ours, theirs)
    assert num_lost >= 1
    warnings = [x.getMessage() for x in caplog.records]
    assert len(warnings) == 1 and "image id 102 takes no part in step" in warnings[0]


def _row(batch, row):
    return jax.tree.map(lambda x: x[row], batch)


def _leaves(tree):
    return jax.tree.leaves(tree)


def test_a_resumed_run_repeats_the_record(tmp_path):
    """The image can be read again, and the batches stay without it; on any number of hosts."""
    first = batches(Fading([102]), lost=LostImages(tmp_path))
    recorded = [json.loads(x) for x in (tmp_path / "lost_images.0.jsonl").read_text().splitlines()]
    assert {x["image_id"] for x in recorded} == {102} and recorded[0]["reason"].endswith("gone")
    again = batches(Fading(), lost=LostImages(tmp_path))
    for a, b in zip(first, again, strict=True):
        _assert_equal(a, b)
    later = batches(Fading(), 2, start_step=2, lost=LostImages(tmp_path, 1))
    for a, b in zip(first[2:], later, strict=True):
        _assert_equal(a, b)
    for row in (0, 1):
        hosts = batches(Fading(), rows=[row], lost=LostImages(tmp_path, row))
        for a, b in zip(first, hosts, strict=True):
            _assert_equal(_row(a, row), _row(b, 0))


def test_each_process_has_its_record(tmp_path):
    LostImages(tmp_path, 0).add(3, 7, "gone")
    LostImages(tmp_path, 5).add(4, 8, "gone too")
    with (tmp_path / "lost_images.5.jsonl").open("a") as file:
        file.write('{"step": 9, "image')  # A killed run leaves half a line.
    lost = LostImages(tmp_path, 1)
    assert (lost.reason(3, 7), lost.reason(4, 8), lost.reason(3, 8)) == ("gone", "gone too", None)


def test_without_a_record_a_lost_image_is_an_error():
    with pytest.raises(OSError, match="image id 102: gone"):
        batches(Fading([102]), 8)


@pytest.mark.parametrize("masks", [True, False])
def test_evaluation_gets_an_image_of_size_0(masks):
    lost = {}
    config = _config()
    found = list(
        pipeline.eval_batches(Fading([101, 104]), config, batch_size=2, masks=masks, lost=lost)
    )
    assert set(lost) == {101, 104} and lost[101] == "image id 101: gone"
    for batch, sizes, real in found:
        for i in np.flatnonzero(real):
            is_lost = batch.image_id[i] in lost
            assert (not batch.sizes[i].any()) == is_lost == (not sizes[i].any())
    assert sum(real.sum() for _, _, real in found) == 5
    with pytest.raises(OSError, match="gone"):
        list(pipeline.eval_batches(Fading([101]), config, batch_size=2))
    assert BUCKETS == config.test_buckets


@pytest.mark.parametrize("line", ["{", "3", "[" * 9000, '{"step": Infinity, "image_id": 1}', "{}"])
def test_a_line_that_is_no_record_is_skipped(tmp_path, line):
    good = '{"step": 3, "image_id": 7, "reason": "gone"}'
    (tmp_path / "lost_images.0.jsonl").write_text(f"{line}\n{good}\n{line}")
    assert LostImages(tmp_path).reason(3, 7) == "gone"
