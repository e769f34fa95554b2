"""Decisions that rounding can change are explained if, and only if, the numbers are close."""

import numpy as np
import pytest

from maskrcnn_jax.parity import explanation
from maskrcnn_jax.parity.selection import Side
from tests.parity.simulation import FAR, config, explain, simulate


def texts(left_over):
    return "; ".join(step.text for step in left_over.steps)


def overlapping(iou, side=100.0):
    """Two boxes of equal height with a given IoU."""
    shift = side * (1 - iou) / (1 + iou)
    return [[10, 10, 10 + side, 110], [10 + shift, 10, 10 + shift + side, 110]]


def test_nothing_is_left_over_where_both_sides_agree():
    outcome = simulate(config(), FAR, [0.9, 0.8, 0.7, 0.6])
    assert len(outcome.boxes) == 4
    assert explain(config(), outcome, outcome) == []


@pytest.mark.parametrize("gap, explained", [(1e-6, True), (1e-3, False)])
def test_a_score_at_the_threshold(gap, explained):
    theirs = simulate(config(), FAR[:2], [0.9, 0.05 + gap])
    ours = simulate(config(), FAR[:2], [0.9, 0.05 - gap])
    (left_over,) = explain(config(), theirs, ours)
    assert left_over.side == "torchvision" and "score threshold 0.05" in texts(left_over)
    assert left_over.explained == explained
    assert left_over.steps[0].margin == pytest.approx(gap, rel=0.05)


@pytest.mark.parametrize("gap, explained", [(1e-5, True), (1e-2, False)])
def test_an_overlap_at_the_threshold_of_detections(gap, explained):
    theirs = simulate(config(), overlapping(0.5 - gap), [0.9, 0.8])
    ours = simulate(config(), overlapping(0.5 + gap), [0.9, 0.8])
    assert (len(theirs.boxes), len(ours.boxes)) == (2, 1)
    ours = ours._replace(original_boxes=theirs.original_boxes[:1])
    (left_over,) = explain(config(), theirs, ours)
    assert left_over.explained == explained
    if explained:
        assert "threshold 0.5" in texts(left_over)


@pytest.mark.parametrize("gap, explained", [(1e-6, True), (1e-2, False)])
def test_a_tie_between_overlapping_boxes(gap, explained):
    boxes = overlapping(0.6)
    theirs = simulate(config(), boxes, [0.8 + gap, 0.8])
    ours = simulate(config(), boxes, [0.8, 0.8 + gap])
    left_overs = explain(config(), theirs, ours)
    assert [left_over.side for left_over in left_overs] == ["torchvision", "ours"]
    for left_over in left_overs:
        assert ("its score and that of its rival" in texts(left_over)) == explained
        assert left_over.explained == explained


@pytest.mark.parametrize("gap, explained", [(1e-5, True), (1e-2, False)])
def test_a_tie_between_boxes_that_one_side_keeps_both(gap, explained):
    """The tie alone does not explain the missing box: the IoU must be at the threshold too."""
    theirs = simulate(config(), overlapping(0.5 - gap), [0.8 + 1e-6, 0.8])
    ours = simulate(config(), overlapping(0.5 + gap), [0.8, 0.8 + 1e-6])
    ours = ours._replace(original_boxes=theirs.original_boxes[1:])
    (left_over,) = explain(config(), theirs, ours)
    assert "its score and that of its rival" in texts(left_over) and "threshold 0.5" in texts(
        left_over
    )
    assert left_over.explained == explained


@pytest.mark.parametrize("gap, explained", [(0.0, True), (1e-2, False)])
def test_every_other_box_of_a_row_with_equal_scores(gap, explained):
    """Each box overlaps its neighbours, so the order of ties decides which boxes stay."""
    row = np.array([[10 + 4 * i, 10, 34 + 4 * i, 43] for i in range(4)], np.float32)
    theirs = simulate(config(), row, [0.9] * 4, objectness=-gap * np.arange(4))
    np.testing.assert_array_equal(theirs.proposals, row[::2])
    ours = theirs._replace(proposals=row[1::2])
    sides = Side("torchvision", theirs, config()), Side("ours", ours, config())
    left_overs = explanation.explain_proposals(*sides)
    assert len(left_overs) == 4
    assert [left_over.explained for left_over in left_overs] == [explained] * 4


@pytest.mark.parametrize("gap, explained", [(1e-6, True), (1e-2, False)])
def test_a_tie_for_the_last_place(gap, explained):
    settings = config(num_detections=2)
    theirs = simulate(settings, FAR[:3], [0.9, 0.8 + gap, 0.8])
    ours = simulate(settings, FAR[:3], [0.9, 0.8, 0.8 + gap])
    left_overs = explain(settings, theirs, ours)
    assert len(left_overs) == 2
    for left_over in left_overs:
        assert "below the last of 2 boxes" in texts(left_over) or "one of 2 places" in texts(
            left_over
        )
        assert left_over.explained == explained


def test_a_box_pushed_out_by_another_left_over():
    settings = config(num_detections=2)
    boxes = [*overlapping(0.5), FAR[2]]
    theirs = simulate(settings, boxes, [0.9, 0.8, 0.4])
    assert len(theirs.boxes) == 2 and theirs.scores[1] == np.float32(0.4)
    boxes = [*overlapping(0.499999), FAR[2]]
    ours = simulate(settings, boxes, [0.9, 0.8, 0.4])
    assert ours.scores.tolist() == pytest.approx([0.9, 0.8])
    first, second = explain(settings, theirs, ours)
    assert "one of 2 places is taken" in texts(first) and "threshold 0.5" in texts(first)
    assert "threshold 0.5" in texts(second)
    assert first.explained and second.explained


def test_a_box_suppressed_by_another_left_over():
    boxes, scores = [[10, 10, 110, 110], [10, 10, 110, 60.001], [10, 10, 110, 36]], [0.9, 0.8, 0.7]
    theirs = simulate(config(), boxes, scores)
    assert theirs.scores.tolist() == pytest.approx([0.9, 0.7])
    boxes[1][3] = 59.999
    ours = simulate(config(), boxes, scores)
    assert ours.scores.tolist() == pytest.approx([0.9, 0.8])
    first, second = explain(config(), theirs, ours)
    assert "suppressed by a box that only the other side has" in texts(first)
    assert first.explained and second.explained


@pytest.mark.parametrize("gap, explained", [(1e-6, True), (1e-2, False)])
def test_objectness_at_the_last_candidate(gap, explained):
    settings = config(num_candidates=2)
    theirs = simulate(settings, FAR[:3], [0.9, 0.8, 0.7], objectness=[3, 2 + gap, 2])
    ours = simulate(settings, FAR[:3], [0.9, 0.8, 0.7], objectness=[3, 2, 2 + gap])
    left_overs = explain(settings, theirs, ours)
    assert len(left_overs) == 2
    for left_over in left_overs:
        assert "its proposal is missing; objectness" in texts(left_over)
        assert left_over.explained == explained


@pytest.mark.parametrize("gap, explained", [(1e-6, True), (1e-2, False)])
def test_probability_at_the_last_proposal(gap, explained):
    settings = config(num_proposals=2)
    theirs = simulate(settings, FAR[:3], [0.9, 0.8, 0.7], objectness=[3, gap, 0])
    ours = simulate(settings, FAR[:3], [0.9, 0.8, 0.7], objectness=[3, 0, gap])
    left_overs = explain(settings, theirs, ours)
    assert len(left_overs) == 2
    for left_over in left_overs:
        assert "its proposal is missing" in texts(left_over)
        assert left_over.explained == explained


@pytest.mark.parametrize("gap, explained", [(1e-5, True), (1e-2, False)])
def test_an_overlap_at_the_threshold_of_proposals(gap, explained):
    theirs = simulate(config(), overlapping(0.7 - gap), [0.9, 0.8], classes=[1, 2])
    ours = simulate(config(), overlapping(0.7 + gap), [0.9, 0.8], classes=[1, 2])
    assert (len(theirs.proposals), len(ours.proposals)) == (2, 1)
    (left_over,) = explain(config(), theirs, ours)
    assert "its proposal is missing" in texts(left_over)
    assert left_over.explained == explained
    sides = Side("torchvision", theirs, config()), Side("ours", ours, config())
    (left_over,) = explanation.explain_proposals(*sides)
    assert left_over.explained == explained


@pytest.mark.parametrize("gap, explained", [(5e-4, True), (1.0, False)])
def test_an_roi_at_the_boundary_of_two_levels(gap, explained):
    theirs = simulate(config(), [[10, 10, 122 - gap, 122]], [0.9])
    ours = simulate(config(), [[10, 10, 122, 122]], [0.7])
    first, second = explain(config(), theirs, ours)
    assert "boundary 3" in texts(first) and "boundary 3" in texts(second)
    assert first.explained == second.explained == explained


@pytest.mark.parametrize("gap, explained", [(1e-4, True), (0.4, False)])
def test_a_sample_at_the_border_of_the_map(gap, explained):
    # A narrow RoI is widened to one cell of 4 pixels; the last of 14 samples is at 27/28.
    x = 320 - 4 * 27 / 28
    theirs = simulate(config(), [[x - gap / 2, 10, 319, 60]], [0.9])
    ours = simulate(config(), [[x + gap / 2, 10, 319, 60]], [0.7])
    first, second = explain(config(), theirs, ours)
    assert "cells from the border" in texts(first)
    assert first.explained == second.explained == explained


@pytest.mark.parametrize("gap, explained", [(1e-5, True), (0.03, False)])
def test_a_mask_pasted_from_another_pixel(gap, explained):
    # A box of 56 pixels grows by 2 on either side.
    masks = np.zeros((1, 320, 320), np.float32)
    masks[0, 10:70, 10:70] = np.linspace(0, 1, 60)
    theirs = simulate(config(), [[12 - gap / 2, 12, 68 - gap / 2, 68]], [0.9], masks=masks)
    moved = np.roll(masks, 1, axis=2)
    ours = simulate(config(), [[12 + gap / 2, 12, 68 + gap / 2, 68]], [0.9], masks=moved)
    first, second = explain(config(), theirs, ours)
    assert "truncated to whole pixels" in texts(first)
    assert first.explained == second.explained == explained


def test_other_numbers_without_a_decision_are_unexplained():
    theirs = simulate(config(), FAR[:2], [0.9, 0.8])
    for ours in (
        simulate(config(), FAR[:2], [0.9, 0.81]),
        simulate(config(), FAR[:2], [0.9, 0.8], masks=np.full((2, 320, 320), 0.6, np.float32)),
        simulate(config(), FAR[:2], [0.9, 0.8], shift=0.06),
    ):
        left_overs = explain(config(), theirs, ours)
        assert left_overs and not any(left_over.explained for left_over in left_overs)


@pytest.mark.parametrize("gap, explained", [(5e-4, True), (1.0, False)])
def test_decisions_of_a_model_without_masks(gap, explained):
    settings = config(has_masks=False)
    theirs = simulate(settings, [[10, 10, 122 - gap, 122]], [0.9])
    ours = simulate(settings, [[10, 10, 122, 122]], [0.7])
    assert theirs.masks is None
    first, second = explain(settings, theirs, ours)
    assert "boundary 3" in texts(first)
    assert first.explained == second.explained == explained
    (first, _) = explain(settings, theirs, theirs._replace(original_boxes=theirs.boxes + 1))
    assert "differ" in texts(first) and "mask" not in texts(first) and not first.explained


def test_a_detection_that_comes_from_nowhere_is_unexplained():
    theirs = simulate(config(), FAR[:2], [0.9, 0.8])
    invented = theirs._replace(boxes=theirs.boxes + 7, original_boxes=theirs.original_boxes + 7)
    assert not any(left_over.explained for left_over in explain(config(), invented, theirs))


def test_a_missing_detection_for_no_reason_is_unexplained():
    theirs = simulate(config(), FAR[:2], [0.9, 0.8])
    names = ("boxes", "labels", "scores", "original_boxes", "masks")
    ours = theirs._replace(**{name: getattr(theirs, name)[:1] for name in names})
    (left_over,) = explain(config(), theirs, ours)
    assert not left_over.explained


def test_offsets_added_to_coordinates_excuse_a_larger_margin():
    theirs, ours = (
        simulate(config(), [*overlapping(iou), FAR[2]], [0.9, 0.8, 0.7], classes=[1, 1, 2])
        for iou in (0.4995, 0.5005)
    )
    sides = [Side("torchvision", theirs, config(), count) for count in (3, 2)]
    selections = [side.detections for side in sides]
    assert selections[0].coordinate_rounding == np.spacing(np.float32(3 * 261)) > 0
    assert selections[1].coordinate_rounding == 0
    assert not explain(config(), theirs, ours, max_boxes_with_offsets=3)[0].explained


def with_rules_of_detectron2():
    settings = config()
    settings.model.roi.aligned, settings.model.roi.sampling_ratio = True, 0
    settings.model.roi.level_rule, settings.detection.paste = "detectron2", "centres"
    return settings


@pytest.mark.parametrize("gap, explained", [(1e-3, True), (1.0, False)])
def test_another_number_of_samples(gap, explained):
    """With 7 bins an RoI of 56 pixels, 14 cells, has 2 samples per bin, and a wider one has 3."""
    settings = with_rules_of_detectron2()
    theirs = simulate(settings, [[10, 10, 66 - gap, 40]], [0.9])
    ours = simulate(settings, [[10, 10, 66 + gap, 40]], [0.7])
    first, second = explain(settings, theirs, ours)
    assert "2 and 3 samples in each bin" in texts(first)
    assert first.explained == second.explained == explained
    same = simulate(settings, [[10, 10, 66 + gap / 2, 40]], [0.6])
    assert "samples" not in texts(explain(settings, ours, same)[0])


def test_each_family_has_its_boundary_of_levels():
    """Sides of 112 less 5e-5 pixels: torchvision rounds them up, Detectron2 does not."""
    side = 111.99995
    for settings, differ in ((config(), False), (with_rules_of_detectron2(), True)):
        theirs = simulate(settings, [[0, 0, side, side]], [0.9])
        ours = simulate(settings, [[0, 0, 112, 112]], [0.7])
        assert ("boundary 3" in texts(explain(settings, theirs, ours)[0])) == differ


def test_masks_that_are_not_pasted_from_whole_pixels():
    settings = with_rules_of_detectron2()
    masks = np.zeros((1, 320, 320), np.float32)
    masks[0, 10:70, 10:70] = np.linspace(0, 1, 60)
    theirs = simulate(settings, [[12 - 1e-5, 12, 40 - 1e-5, 40]], [0.9], masks=masks)
    moved = simulate(settings, [[12, 12, 40, 40]], [0.9], masks=np.roll(masks, 1, axis=2))
    assert not any(left_over.explained for left_over in explain(settings, theirs, moved))


@pytest.mark.parametrize("gap, explained", [(1e-5, True), (0.03, False)])
def test_a_mask_drawn_up_to_another_pixel(gap, explained):
    """The window of the box that ends beyond pixel 40 has one more column."""
    settings = with_rules_of_detectron2()
    masks = np.zeros((1, 320, 320), np.float32)
    masks[0, 10:42, 10:41] = 0.7
    more = masks.copy()
    more[0, 10:42, 41] = 0.02
    theirs = simulate(settings, [[12, 12, 40, 40]], [0.9], masks=masks)
    ours = simulate(settings, [[12, 12, 40 + gap, 40]], [0.9], masks=more)
    first, second = explain(settings, theirs, ours)
    assert "rounded to whole pixels" in texts(first)
    assert first.explained == second.explained == explained


def test_logits_with_the_same_probability():
    """In float32, logits of 15 and 15.1 have one probability; a peer may sort them either way."""
    settings = config(num_candidates=1)
    theirs = simulate(settings, FAR[:2], [0.9, 0.8], objectness=[15.1, 15.0])
    ours = simulate(settings, FAR[:2], [0.9, 0.8], objectness=[15.0, 15.1])
    for rules, explained in (({}, False), ({"sorts_by": "probability"}, True)):
        sides = Side("peer", theirs, settings, **rules), Side("ours", ours, settings)
        left_overs = explanation.explain_proposals(*sides)
        assert [left_over.explained for left_over in left_overs] == [explained] * 2


def test_a_peer_takes_another_of_equal_probabilities():
    settings = config(num_candidates=1)
    ours = simulate(settings, FAR[:2], [0.9, 0.8], objectness=[15.1, 15.0])
    other = simulate(settings, FAR[:2], [0.9, 0.8], objectness=[15.0, 15.1]).proposals
    theirs = ours._replace(proposals=other)  # With the logits of ours.
    for rules, explained in (({}, False), ({"sorts_by": "probability"}, True)):
        sides = Side("peer", theirs, settings, **rules), Side("ours", ours, settings)
        left_overs = explanation.explain_proposals(*sides)
        assert [left_over.explained for left_over in left_overs] == [explained] * 2
