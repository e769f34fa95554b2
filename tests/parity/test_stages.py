"""The slots in which stages get the boxes of a peer; test_live.py runs the stages themselves."""

import numpy as np

from maskrcnn_jax.parity import stages
from maskrcnn_jax.structures import Detections
from tests.parity.simulation import FAR, config, simulate


def test_the_boxes_of_each_stage_fill_slots_and_leave_them():
    rois = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4) + 1
    joined = stages._stage_slots(rois, 5)
    assert joined.shape == (1, 15, 4)
    np.testing.assert_array_equal(joined[0, 5:7], rois[1])
    assert not joined[0, 7:10].any()
    back = stages._without_slots(joined[0], rois)
    np.testing.assert_array_equal(back, rois.reshape(-1, 4))


def test_our_detections_replace_those_of_the_peer():
    given = simulate(config(), FAR[:3], [0.9, 0.8, 0.7])
    boxes = np.array(FAR, np.float32) + 1
    valid = np.array([True, False, True, False])
    found = Detections(boxes, np.arange(4, dtype=np.int32), np.ones(4), None, valid)
    outcome = stages._with_detections(given, found)
    np.testing.assert_array_equal(outcome.boxes, boxes[[0, 2]])
    assert outcome.labels.tolist() == [0, 2] and outcome.labels.dtype == np.int64
    assert outcome.scores.shape == (2,) and outcome.proposals is given.proposals
