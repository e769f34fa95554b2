"""Matching against golden values, a NumPy oracle, and the hazards of padding and of one ulp."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import boxes, matching

RPN = {"positive_iou": 0.7, "negative_iou": 0.3, "low_quality": "label"}
ROI = {"positive_iou": 0.5, "negative_iou": 0.5}
MMDET_RPN = RPN | {"low_quality": "assign", "min_low_quality_iou": 0.3}
MMDET_ROI = ROI | {"low_quality": "assign", "min_low_quality_iou": 0.5}
RULES = {"rpn": RPN, "roi": ROI, "mmdet rpn": MMDET_RPN, "mmdet roi": MMDET_ROI}
every_rule = pytest.mark.parametrize("knobs", RULES.values(), ids=RULES)


def match_slowly(iou, positive_iou, negative_iou, low_quality="none", min_low_quality_iou=0.0):
    """One candidate at a time, as torchvision's Matcher on the rows of valid objects.

    With "assign" the objects then take their closest candidates one after the other, as in
    MMDetection's MaxIoUAssigner.
    """
    num_instances, num_candidates = iou.shape
    best_of_instance = [max(row) for row in iou]
    matched, labels = np.zeros(num_candidates, int), np.zeros(num_candidates, int)
    for i in range(num_candidates):
        for g in range(num_instances):
            if iou[g, i] > iou[matched[i], i]:
                matched[i] = g
        best = iou[matched[i], i]
        labels[i] = 1 if best >= positive_iou else 0 if best < negative_iou else -1
    for g, best in enumerate(best_of_instance):
        for i in range(num_candidates):
            is_taken = best >= np.float32(min_low_quality_iou) and iou[g, i] == best
            if is_taken and low_quality != "none":
                labels[i] = 1
                matched[i] = g if low_quality == "assign" else matched[i]
    return matched, labels


jitted_match = jax.jit(matching.match, static_argnames=("overlaps", *MMDET_RPN))


def rows(iou):
    """The overlaps of instances that are given by their overlaps."""
    return iou


def iou_on_the_host(a, b):
    """Overlaps in float32, one operation at a time, which no compiler fuses."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.maximum(sides, 0).prod(axis=-1)
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    return intersection / (areas[0] + areas[1] - intersection)


def match(iou, valid=None, **knobs):
    iou = np.asarray(iou, np.float32)
    valid = np.ones(len(iou), bool) if valid is None else np.asarray(valid)
    return jax.tree.map(np.asarray, jitted_match(iou, valid, rows, **knobs))


def test_golden_with_low_quality_matches():
    iou = [
        [0.9, 0.5, 0.2, 0.1, 0.29, 0.29],
        [0.8, 0.75, 0.6, 0.4, 0.05, 0.05],
        [0, 0, 0, 0, 0.29, 0.28],
    ]
    matched, labels = match(iou, **RPN)
    np.testing.assert_array_equal(labels, [1, 1, -1, -1, 1, 0])
    # The fifth candidate is the best of the third object, but keeps the first object, which has the
    # same overlap and comes first.
    np.testing.assert_array_equal(matched[labels == 1], [0, 1, 0])


def test_golden_with_one_threshold():
    iou = [
        [0.9, 0.5, 0.2, 0.1, 0.29, 0.29],
        [0.8, 0.75, 0.6, 0.4, 0.05, 0.05],
        [0, 0, 0, 0, 0.29, 0.28],
    ]
    matched, labels = match(iou, **ROI)
    np.testing.assert_array_equal(labels, [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(matched[:3], [0, 1, 1])


def test_an_object_takes_its_closest_candidates_in_mmdetection():
    """The last object wins, and an object that overlaps nothing enough takes none."""
    iou = [[0, 0, 0, 0.2], [0.8, 0.2, 0.4, 0], [0.8, 0.35, 0.4, 0]]
    matched, labels = match(iou, **MMDET_RPN)
    np.testing.assert_array_equal(labels, [1, -1, -1, 0])
    assert matched[0] == 2
    matched, labels = match([[0, 0, 0], [0.8, 0.2, 0]], **MMDET_RPN)
    assert labels.tolist() == [1, 0, 0] and matched[0] == 1
    # Candidate 1 is the best of object 0, but overlaps object 1 more.
    iou = [[0.5, 0.55], [0.9, 0.6]]
    assert match(iou, **MMDET_ROI)[0].tolist() == [1, 0]
    assert match(iou, **ROI)[0].tolist() == [1, 1]


def test_object_that_nothing_overlaps_takes_everything():
    matched, labels = match(np.zeros((1, 5)), **RPN)
    np.testing.assert_array_equal(labels, [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(matched, [0, 0, 0, 0, 0])


def test_thresholds_belong_to_the_upper_side():
    _, labels = match([[0.75, 0.25, 0.2, 1.0]], positive_iou=0.75, negative_iou=0.25)
    np.testing.assert_array_equal(labels, [1, -1, 0, 1])


@pytest.mark.parametrize("seed", range(20))
@every_rule
def test_equals_the_oracle(seed, knobs):
    rng = np.random.default_rng(seed)
    # Multiples of 1/20 make ties frequent, between objects and between candidates.
    iou = (rng.integers(0, 21, (1 + seed % 3, 30)) / 20 * rng.uniform(0.3, 1)).astype(np.float32)
    exact = {k: v if isinstance(v, str) else np.float32(v) for k, v in knobs.items()}
    expected_match, expected_labels = match_slowly(iou, **exact)
    matched, labels = match(iou, **knobs)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(matched, expected_match)


@pytest.mark.parametrize("overlaps_at_once", [1, 30, 60, 90, 1000])
def test_chunks_of_instances_give_what_all_at_once_give(overlaps_at_once, monkeypatch):
    monkeypatch.setattr(matching, "OVERLAPS_AT_ONCE", overlaps_at_once)
    rng = np.random.default_rng(overlaps_at_once)
    iou = jnp.asarray(rng.integers(0, 21, (2, 7, 30)) / 20, jnp.float32)
    valid = jnp.asarray(rng.random((2, 7)) < 0.6)
    forms = matching._match_at_once, matching._match_in_chunks
    expected, found = (
        jax.jit(jax.vmap(partial(form, overlaps=rows, min_iou=0.3)))(iou, valid) for form in forms
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@every_rule
def test_padded_objects_change_nothing(knobs):
    iou = np.random.default_rng(0).uniform(0, 1, (3, 40)).astype(np.float32)
    padded = np.concatenate(
        [iou, np.full((2, 40), 0.99, np.float32), np.full((2, 40), np.nan, np.float32)]
    )
    valid = np.arange(7) < 3
    expected_match, expected_labels = match(iou, **knobs)
    matched, labels = match(padded, valid, **knobs)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(matched, expected_match)


def test_without_objects_all_are_negative():
    for row in (0.0, 0.9, np.nan):
        _, labels = match(np.full((2, 6), row), [False, False], **RPN)
        np.testing.assert_array_equal(labels, np.zeros(6))


def test_nan_matches_nothing():
    iou = [[np.nan, 0.8, 0.1], [0.9, np.nan, np.nan]]
    matched, labels = match(iou, **ROI)
    np.testing.assert_array_equal(labels, [1, 1, 0])
    np.testing.assert_array_equal(matched[:2], [1, 0])


def test_low_quality_matches_survive_compilation_among_padding():
    """Two fusions can compute one IoU differently: an object could lose its anchor."""
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 900, (20_000, 2))
    anchors = np.concatenate([corner, corner + rng.uniform(20, 300, (20_000, 2))], axis=1).astype(
        np.float32
    )
    corner = rng.uniform(0, 900, (12, 2))
    objects = np.concatenate([corner, corner + rng.uniform(2, 300, (12, 2))], axis=1).astype(
        np.float32
    )
    instances = np.concatenate([objects, np.zeros((100, 4), np.float32)])

    @jax.jit
    def label(instances, valid, anchors):
        overlaps = lambda objects: boxes.pairwise_iou(objects, anchors)  # noqa: E731
        return matching.match(instances, valid, overlaps, **RPN)[1]

    labels = np.asarray(label(instances, np.arange(112) < 12, anchors))
    iou = iou_on_the_host(objects, anchors)
    best = iou.max(axis=0)
    is_best = iou == iou.max(axis=1, keepdims=True)
    assert (best[is_best.any(0)] < 0.7).any()  # Some objects do depend on the rule.
    np.testing.assert_array_equal(labels[is_best.any(axis=0)], 1)
    expected = np.where(best >= 0.7, 1, np.where(best < 0.3, 0, -1))
    clear = ~is_best.any(axis=0) & (abs(best - 0.7) > 1e-6) & (abs(best - 0.3) > 1e-6)
    np.testing.assert_array_equal(labels[clear], expected[clear])
