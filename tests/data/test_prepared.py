"""Prepared records read as a data set: the same data as their COCO json."""

import json
import re
import sys

import numpy as np
import pytest

from maskrcnn_jax.data import checks, coco_instances
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.prepared import PreparedDataset
from tests.data.test_coco_instances import (
    assert_same_data,
    assert_same_example,
    prepare,
)


def test_both_sources_have_the_same_data(small, tmp_path):
    prepare(small, tmp_path / "out")
    assert_same_data(small, tmp_path / "out")
    assert len(PreparedDataset(tmp_path / "out", "train", keep_empty=False)) == 3
    assert "tensorflow" not in sys.modules


def test_evaluation_gets_the_annotation_file_itself(small, tmp_path):
    prepare(small, tmp_path / "out", "val")
    dataset = PreparedDataset(tmp_path / "out", "val", keep_empty=True)
    assert dataset.annotations() == json.loads(small[1].read_text(encoding="utf-8"))
    assert dataset.file_names == ["turned.jpg", "empty.webp", "alpha.png", "thin.jpg", "grey.jpg"]
    trained = PreparedDataset(tmp_path / "out", "val", keep_empty=False)
    assert trained.file_names == ["turned.jpg", "alpha.png", "grey.jpg"]


def test_images_are_read_at_random(small, tmp_path):
    prepare(small, tmp_path / "out")
    dataset = PreparedDataset(tmp_path / "out", "train", keep_empty=False)
    assert [dataset[i].image_id for i in (2, 0, -1, np.int64(1))] == [-3, 900, -3, 7]
    for index in (3, -4):
        with pytest.raises(IndexError):
            dataset[index]


def test_another_number_of_channels_is_named_without_reading_a_record(small, tmp_path):
    prepare(small, tmp_path / "out")
    for shard in tmp_path.glob("out/**/*.array_record*"):
        shard.write_bytes(bytes(shard.stat().st_size))

    def opened(num_channels):
        rules = {"keep_empty": True, "num_channels": num_channels}
        return PreparedDataset(tmp_path / "out", "train", **rules)

    for fits in (None, 3):  # Alpha would be dropped, and grey repeated.
        assert checks.find_bad(opened(fits)) == {}
    bad = checks.find_bad(opened(4))
    assert sorted(bad) == [-3, 11, 12, 900]
    expected = "image id -3, grey.jpg, in .*1.2.0: it has 1 channel; expected 4, as image_mean has"
    assert re.fullmatch(expected, bad[-3])


def test_labels_follow_a_given_map(small, tmp_path):
    prepare(small, tmp_path / "out")
    given = Categories((5, 2, 9, 1), ("cat", "beetle", "cow", "dog"))
    ours = PreparedDataset(tmp_path / "out", "train", keep_empty=True, categories=given)
    assert ours.categories == given
    for a, b in zip(ours, CocoDataset(*small, keep_empty=True, categories=given), strict=True):
        assert_same_example(a, b)
    with pytest.raises(ValueError, match="unknown category id 9"):
        PreparedDataset(
            tmp_path / "out",
            "train",
            keep_empty=True,
            categories=Categories((5, 2), ("cat", "beetle")),
        )


def test_a_split_that_was_not_prepared_is_named(small, tmp_path):
    prepare(small, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="'val' images.*out"):
        PreparedDataset(tmp_path / "out", "val", keep_empty=True)


def test_a_damaged_record_is_named(small, tmp_path):
    prepare(small, tmp_path / "out")
    shard = next(tmp_path.glob("out/**/*.array_record*"))
    content = bytearray(shard.read_bytes())
    content[200] ^= 1  # A bit of the first record.
    shard.write_bytes(content)
    dataset = PreparedDataset(tmp_path / "out", "train", keep_empty=False)
    with pytest.raises(OSError, match="cannot read image id 900 from .*1.2.0"):
        dataset[0]


def test_objects_without_a_mask_are_prepared_and_left_out_on_request(small, tmp_path, caplog):
    content = json.loads(small[1].read_text(encoding="utf-8"))
    for annotation, mask in ((content["annotations"][0], []), (content["annotations"][3], None)):
        annotation["segmentation"] = mask
    small[1].write_text(json.dumps(content), encoding="utf-8")
    coco_instances.prepare(
        CocoDataset(*small, keep_empty=True, masks=False), "train", tmp_path / "out", lambda n: None
    )
    for masks, expected in ((True, [1, 0, 0, 1, 1]), (False, [2, 0, 1, 1, 1])):
        for keep_empty in (True, False):
            caplog.clear()
            records = PreparedDataset(tmp_path / "out", "train", keep_empty=keep_empty, masks=masks)
            said = [record.getMessage() for record in caplog.records]
            assert said == (
                ["dropped 2 objects without a mask, in 2 images: 900, 7"] if masks else []
            )
            direct = CocoDataset(*small, keep_empty=keep_empty, masks=masks)
            assert records.image_ids.tolist() == direct.image_ids.tolist()
            for ours, theirs in zip(records, direct, strict=True):
                assert_same_example(ours, theirs)
            if keep_empty:
                assert [len(labels) for labels in records.labels] == expected
    assert None in records[0].masks


def test_images_can_be_left_out(small, tmp_path):
    prepare(small, tmp_path / "out")
    dataset = PreparedDataset(tmp_path / "out", "train", keep_empty=True)
    assert [len(labels) for labels in dataset.labels] == [2, 0, 1, 1, 1]
    rest = dataset.without([900, 11])
    assert rest.image_ids.tolist() == [12, 7, -3] and len(dataset) == 5
    assert [len(labels) for labels in rest.labels] == [0, 1, 1]
    assert rest[1].image_id == 7 and rest.file_names[1] == "alpha.png"
