"""The losses against NumPy, and their independence of padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import losses
from maskrcnn_jax.ops import boxes as box_ops
from maskrcnn_jax.structures import AnchorTargets, RoITargets

BETA = 1 / 9


def smooth_l1(error):
    error = abs(error.astype(np.float64))
    return np.where(error < BETA, 0.5 * error**2 / BETA, error - 0.5 * BETA).sum()


def binary_cross_entropy(logits, targets):
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -(targets * np.log(probability) + (1 - targets) * np.log(1 - probability)).sum()


def slots(rng, b, s, counts):
    """Masks of positive and valid slots, from their numbers per image; positives come first."""
    positive, valid = (
        np.arange(s) < np.array([count[i] for count in counts])[:, None] for i in range(2)
    )
    return positive, valid


def anchor_case(rng, counts):
    b, s = len(counts), 8
    positive, valid = slots(rng, b, s, counts)
    targets = AnchorTargets(
        np.zeros((b, s), int), positive, rng.normal(size=(b, s, 4)).astype("f"), valid
    )
    return rng.normal(size=(b, s)).astype("f"), rng.normal(size=(b, s, 4)).astype("f"), targets


def roi_case(rng, counts, num_classes=5):
    b, r = len(counts), 8
    positive, valid = slots(rng, b, r, counts)
    targets = RoITargets(
        boxes=np.zeros((b, r, 4), "f"),
        classes=np.where(positive, rng.integers(1, num_classes, (b, r)), 0),
        deltas=rng.normal(size=(b, r, 4)).astype("f"),
        instances=np.zeros((b, r), int),
        positive=positive,
        valid=valid,
    )
    logits, deltas = rng.normal(size=(b, r, num_classes)), rng.normal(size=(b, r, num_classes, 4))
    return logits.astype("f"), deltas.astype("f"), targets


rpn_loss = jax.jit(losses.rpn_loss, static_argnames=("beta", "divisor"))
box_loss = jax.jit(losses.box_loss, static_argnames="beta")
mask_loss = jax.jit(losses.mask_loss)
COUNTS = [(2, 7), (0, 8), (3, 3)]


def test_rpn_loss_equals_numpy():
    logits, deltas, targets = anchor_case(np.random.default_rng(0), COUNTS)
    objectness = box = 0.0
    for i in range(3):
        valid, positive = targets.valid[i], targets.positive[i]
        objectness += binary_cross_entropy(logits[i][valid], positive[valid])
        box += smooth_l1(deltas[i][positive] - targets.deltas[i][positive])
    result = rpn_loss(logits, deltas, targets, beta=BETA)
    np.testing.assert_allclose(result["loss_objectness"], (objectness, 18), rtol=1e-5)
    # The count is that of all samples, not of positives.
    np.testing.assert_allclose(result["loss_rpn_box_reg"], (box, 18), rtol=1e-5)
    assert set(result) == {"loss_objectness", "loss_rpn_box_reg"}


@pytest.mark.parametrize(
    "divisor, count",
    [
        ("drawn", 7 + 8 + 3 + 0),
        ("fixed", 3 * 8),  # The last image, which was lost, has no samples.
        ("mmdetection", (2 + 5) + (1 + 8) + (3 + 1)),  # At least one positive and one negative.
    ],
)
def test_the_divisor_of_the_rpn_losses(divisor, count):
    logits, deltas, targets = anchor_case(np.random.default_rng(0), [*COUNTS, (0, 0)])
    result = rpn_loss(logits, deltas, targets, beta=BETA, divisor=divisor)
    assert [float(found) for _, found in result.values()] == [count, count]


def test_box_loss_equals_numpy():
    logits, deltas, targets = roi_case(np.random.default_rng(1), COUNTS)
    classification = box = 0.0
    for i in range(3):
        for r in np.flatnonzero(targets.valid[i]):
            exponentials = np.exp(logits[i, r].astype(np.float64))
            classification -= np.log(exponentials[targets.classes[i, r]] / exponentials.sum())
            if targets.positive[i, r]:
                box += smooth_l1(deltas[i, r, targets.classes[i, r]] - targets.deltas[i, r])
    result = box_loss(logits, deltas, targets, beta=BETA)
    np.testing.assert_allclose(result["loss_classifier"], (classification, 18), rtol=1e-5)
    np.testing.assert_allclose(result["loss_box_reg"], (box, 18), rtol=1e-5)
    assert set(result) == {"loss_classifier", "loss_box_reg"}


def test_sigmoid_scores_count_some_classes_of_each_image():
    logits, deltas, targets = roi_case(np.random.default_rng(1), COUNTS)
    counted = np.random.default_rng(2).uniform(size=(3, 5)) < 0.5
    expected = 0.0
    for i in range(3):
        for r in np.flatnonzero(targets.valid[i]):
            for k in range(1, 5):  # Background has no score.
                is_class = targets.classes[i, r] == k
                expected += counted[i, k] * binary_cross_entropy(logits[i, r, k], is_class)
    result = box_loss(logits, deltas, targets, counted, beta=BETA)
    np.testing.assert_allclose(result["loss_classifier"], (expected, 18), rtol=1e-5)
    plain = box_loss(logits, deltas, targets, beta=BETA)
    np.testing.assert_array_equal(result["loss_box_reg"], plain["loss_box_reg"])


def test_one_box_for_all_classes_has_the_loss_of_equal_boxes():
    logits, deltas, targets = roi_case(np.random.default_rng(1), COUNTS)
    one = deltas[:, :, :1]
    expected = box_loss(logits, np.repeat(one, 5, axis=2), targets, beta=BETA)
    for name, found in box_loss(logits, one, targets, beta=BETA).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-6)


def test_mask_loss_equals_numpy():
    rng = np.random.default_rng(2)
    _, _, targets = roi_case(rng, COUNTS)
    logits = rng.normal(size=(3, 8, 4, 4)).astype("f")
    masks = rng.uniform(size=(3, 8, 4, 4)).astype("f")
    total = sum(
        binary_cross_entropy(logits[i, r], masks[i, r])
        for i in range(3)
        for r in np.flatnonzero(targets.positive[i])
    )
    np.testing.assert_allclose(
        mask_loss(logits, masks, targets)["loss_mask"], (total, 5 * 16), rtol=1e-5
    )


def test_smooth_l1_by_hand():
    """0.5 * 0.1**2 / beta = 0.045 below the threshold of 1 / 9, 0.5 - beta / 2 = 0.444444 above."""
    targets = AnchorTargets(
        np.zeros((1, 1), int),
        np.ones((1, 1), bool),
        np.zeros((1, 1, 4), "f"),
        np.ones((1, 1), bool),
    )
    deltas = np.array([[[0.1, -0.5, 0, 0]]], "f")
    total, count = rpn_loss(np.zeros((1, 1), "f"), deltas, targets, beta=BETA)["loss_rpn_box_reg"]
    np.testing.assert_allclose((total, count), (0.045 + 0.5 - 0.5 / 9, 1), rtol=1e-5)


def test_beta_zero_is_plain_l1_with_a_finite_gradient():
    """Detectron2's default; the gradient of an exact prediction is 0."""
    ones = np.ones((1, 1), bool)
    targets = AnchorTargets(np.zeros((1, 1), int), ones, np.zeros((1, 1, 4), "f"), ones)
    deltas = np.array([[[0.1, -0.5, 0, 2e-5]]], "f")

    def box_loss(deltas):
        found = rpn_loss(np.zeros((1, 1), "f"), deltas, targets, beta=0.0)
        return found["loss_rpn_box_reg"][0]

    loss, gradient = jax.value_and_grad(box_loss)(deltas)
    np.testing.assert_allclose(loss, np.abs(deltas).sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradient, np.sign(deltas))


def generalised_iou(a, b):
    """The GIoU of two boxes (Rezatofighi et al., 2019), computed by hand."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared
    around = (np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])).prod()
    return shared / union - (around - union) / around


@pytest.mark.parametrize("box_weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_the_overlap_of_boxes_is_that_of_their_pixels(box_weights):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (6, 2))
    anchors = np.concatenate([corners, corners + rng.uniform(20, 40, (6, 2))], axis=1).astype("f")
    targets = anchors + rng.uniform(-8, 8, (6, 4)).astype("f")
    deltas = jnp.array(0.5 * rng.normal(size=(6, 4)) * box_weights, jnp.float32)
    found = np.asarray(box_ops.decode(deltas, jnp.array(anchors), box_weights))
    overlaps = [generalised_iou(*pair) for pair in zip(found, targets, strict=True)]
    assert min(overlaps) < 0 < max(overlaps)
    encoded = box_ops.encode(jnp.array(targets), jnp.array(anchors), box_weights)[None]
    positive = jnp.array([[True] * 5 + [False]])
    given = AnchorTargets(jnp.zeros((1, 6), int), positive, encoded, jnp.ones((1, 6), bool))

    def loss(deltas):
        rule = {"form": "giou", "weight": 2.0, "box_weights": box_weights}
        found = losses.rpn_loss(jnp.zeros((1, 6)), deltas, given, beta=0.0, **rule)
        return found["loss_rpn_box_reg"][0]

    value, gradient = jax.value_and_grad(loss)(deltas[None])
    assert float(value) == pytest.approx(2 * (1 - np.array(overlaps[:5])).sum(), rel=1e-5)
    assert np.isfinite(gradient).all() and not gradient[0, 5].any()
    assert loss(encoded) == pytest.approx(0, abs=1e-4)


@jax.jit
def means_and_gradients(predictions, anchors, masks, rois):
    def total(predictions):
        logits, deltas, class_logits, class_deltas, mask_logits = predictions
        found = losses.rpn_loss(logits, deltas, anchors, beta=BETA)
        found |= losses.box_loss(class_logits, class_deltas, rois, beta=BETA)
        found |= losses.mask_loss(mask_logits, masks, rois)
        means = {name: losses.mean(loss) for name, loss in found.items()}
        return sum(means.values()), means

    return jax.value_and_grad(total, has_aux=True)(predictions)


def all_losses(counts):
    rng = np.random.default_rng(3)
    logits, deltas, anchors = anchor_case(rng, counts)
    class_logits, class_deltas, rois = roi_case(rng, counts)
    mask_logits = rng.normal(size=(len(counts), 8, 4, 4)).astype("f")
    masks = rng.uniform(size=(len(counts), 8, 4, 4)).astype("f")
    return (logits, deltas, class_logits, class_deltas, mask_logits), anchors, masks, rois


@pytest.mark.parametrize(
    "counts", [[(0, 0), (0, 0)], [(0, 8), (0, 8)]], ids=["nothing", "background"]
)
def test_without_positives_values_and_gradients_are_finite(counts):
    (_, means), gradients = means_and_gradients(*all_losses(counts))
    for name in ("loss_rpn_box_reg", "loss_box_reg", "loss_mask"):
        assert means[name] == 0
    assert (means["loss_objectness"] > 0) == (means["loss_classifier"] > 0) == (counts[0][1] > 0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    np.testing.assert_array_equal(gradients[4], 0)


def test_padded_slots_change_nothing():
    counts = [(2, 5), (1, 4)]
    predictions, anchors, masks, rois = all_losses(counts)
    (loss, _), gradients = means_and_gradients(predictions, anchors, masks, rois)
    assert loss > 0
    padding = ~rois.valid
    logits, deltas, class_logits, class_deltas, mask_logits = predictions
    class_logits, class_deltas, mask_logits = (
        np.where(padding.reshape(*padding.shape, *[1] * (x.ndim - 2)), 1e3, x).astype("f")
        for x in (class_logits, class_deltas, mask_logits)
    )
    anchors = anchors._replace(
        indices=np.where(anchors.valid, anchors.indices, 0),
        deltas=np.where(anchors.positive[..., None], anchors.deltas, 1e3).astype("f"),
    )
    rois = rois._replace(
        classes=np.where(rois.valid, rois.classes, 3),
        deltas=np.where(rois.positive[..., None], rois.deltas, 1e3).astype("f"),
    )
    predictions = logits, deltas, class_logits, class_deltas, mask_logits
    (padded_loss, _), padded_gradients = means_and_gradients(predictions, anchors, masks, rois)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    for ours, expected in zip(padded_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_sums_and_counts_add_up_over_parts_of_a_batch():
    predictions = anchor_case(np.random.default_rng(4), COUNTS)
    whole = rpn_loss(*predictions, beta=BETA)
    parts = [
        rpn_loss(*jax.tree.map(lambda x, i=i: x[i : i + 1], predictions), beta=BETA)
        for i in range(3)
    ]
    for name, loss in whole.items():
        np.testing.assert_allclose(np.sum([part[name] for part in parts], axis=0), loss, rtol=1e-5)


def test_mean_of_nothing_is_zero():
    assert losses.mean((jnp.float32(0), jnp.float32(0))) == 0
    assert losses.mean((jnp.float32(6), jnp.float32(4))) == 1.5
