"""Training targets: the sampled anchors and RoIs do not depend on the padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import sharding, targets
from maskrcnn_jax.model_config import BoxHeadConfig, ModelConfig, RoIConfig, RPNConfig
from maskrcnn_jax.ops import anchors, boxes
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.structures import Bitmaps, Crops, Instances, Proposals, RoITargets
from tests import oracles, traces
from tests.conftest import QUICK_COMPILE

RPN = freeze(RPNConfig(anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0), num_samples=64))
ROI = freeze(RoIConfig(num_samples=32))


def shapes(height, width):
    return tuple((level, (-(-height // 2**level), -(-width // 2**level))) for level in range(2, 7))


NARROW, WIDE = shapes(64, 96), shapes(128, 160)
CANVAS = jnp.array([64, 96])
OBJECTS = np.float32([[10, 10, 40, 40], [50, 5, 90, 60], [3, 40, 13, 48]])


def instances(objects=OBJECTS, num_slots=6, padding=0.0):
    """Objects of classes 1, 2, 3, ... in the first slots; ``padding`` fills the other boxes."""
    slots = np.full((num_slots, 4), padding, np.float32)
    slots[: len(objects)] = objects
    valid = np.arange(num_slots) < len(objects)
    masks = Crops(np.full((num_slots, 8, 8), 255, np.uint8))
    return Instances(slots, np.where(valid, np.arange(1, num_slots + 1), 0), masks, valid)


@partial(jax.jit, static_argnames=("shapes", "config"))
def anchor_targets(key, instances, canvas=CANVAS, shapes=NARROW, config=RPN):
    return targets.anchor_targets(key, instances, canvas, shapes=dict(shapes), config=config)


@partial(jax.jit, compiler_options=QUICK_COMPILE, static_argnames="rule")
def mask_targets(rois, instances, size=CANVAS, rule="share"):
    return targets.mask_targets(rois, instances, size, CANVAS, resolution=28, rule=rule)


@partial(jax.jit, static_argnames="config")
def roi_targets(key, proposals, instances, config=ROI):
    return targets.roi_targets(key, proposals, instances, config=config)


def grid(shapes):
    levels = anchors.pyramid_anchors(dict(shapes), CANVAS, RPN.anchor_sizes, RPN.aspect_ratios)
    return np.concatenate([level[0] for level in levels.values()])


def positions(indices, shapes):
    """``(level, row, column, ratio)`` of anchors, from their indices."""
    found = []
    for index in np.asarray(indices):
        for level, (height, width) in shapes:
            if index < 3 * height * width:
                ratio, row, column = np.unravel_index(index, (3, height, width))
                found.append((level, row, column, ratio))
                break
            index -= 3 * height * width
    return found


def overlaps(a, b):
    return np.asarray(jax.jit(boxes.pairwise_iou)(a, b))


def test_sampled_anchors_are_what_they_are_said_to_be():
    sampled = jax.tree.map(np.asarray, anchor_targets(jax.random.key(0), instances()))
    iou = overlaps(OBJECTS, grid(NARROW))
    expected = (iou.max(axis=0) >= 0.7) | (iou == iou.max(axis=1, keepdims=True)).any(axis=0)
    assert sampled.valid.all() and len(set(sampled.indices)) == 64
    assert sampled.positive.sum() == min(expected.sum(), 32) >= 3
    assert expected[sampled.indices[sampled.positive]].all()
    assert (iou.max(axis=0)[sampled.indices[~sampled.positive]] < 0.3).all()
    np.testing.assert_array_equal(sampled.deltas[~sampled.positive], 0)
    decoded = boxes.decode(
        jnp.asarray(sampled.deltas), jnp.asarray(grid(NARROW)[sampled.indices]), RPN.box_weights
    )
    closest = OBJECTS[iou.argmax(axis=0)[sampled.indices]]
    np.testing.assert_allclose(decoded[sampled.positive], closest[sampled.positive], atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_anchors_are_drawn_by_position_in_any_bucket(seed):
    key = jax.random.key(seed)
    narrow, wide = anchor_targets(key, instances()), anchor_targets(key, instances(), shapes=WIDE)
    assert positions(narrow.indices, NARROW) == positions(wide.indices, WIDE)
    for name in ("positive", "deltas", "valid"):
        np.testing.assert_array_equal(getattr(narrow, name), getattr(wide, name))
    assert positions(narrow.indices, NARROW) != positions(
        anchor_targets(jax.random.key(9), instances())[0], NARROW
    )


def test_no_loop_and_no_gather_takes_all_anchors_as_boxes():
    # On a TPU, [n, 4] is as large as [n, 128].
    traced = jax.make_jaxpr(anchor_targets)(jax.random.key(0), instances()).jaxpr
    count = len(grid(NARROW))
    for primitive in ("while", "gather"):
        shapes = traces.operand_shapes(traced, primitive)
        assert (count,) in shapes and (count, 4) not in shapes


def test_no_anchor_beyond_the_canvas_takes_an_object():
    """Thin objects at the right border are closest to anchors with a centre beyond it."""
    key = jax.random.key(2)
    for left in np.arange(93, 96, 0.5):
        objects = instances(np.float32([[left, 20, 96, 30]]), num_slots=3)
        narrow, wide = anchor_targets(key, objects), anchor_targets(key, objects, shapes=WIDE)
        assert narrow.positive.any()
        np.testing.assert_array_equal(wide.positive, narrow.positive)
        np.testing.assert_array_equal(wide.deltas, narrow.deltas)


@pytest.mark.parametrize("padding", [0.0, np.nan, 33.0])
def test_empty_slots_change_no_anchor(padding):
    key = jax.random.key(1)
    expected = anchor_targets(key, instances(num_slots=3))
    jax.tree.map(
        np.testing.assert_array_equal, anchor_targets(key, instances(padding=padding)), expected
    )


def test_an_object_without_area_makes_no_anchor_positive():
    sampled = anchor_targets(
        jax.random.key(0), instances(np.float32([[20, 20, 20, 30]]), num_slots=3)
    )
    assert not sampled.positive.any() and sampled.valid.all()
    assert np.isfinite(sampled.deltas).all()


def test_without_objects_all_samples_are_background():
    sampled = anchor_targets(jax.random.key(0), instances(OBJECTS[:0]))
    assert sampled.valid.all() and not sampled.positive.any()
    np.testing.assert_array_equal(sampled.deltas, 0)


def proposals(seed, num_slots=60, num_valid=50):
    """Half of the proposals are near an object, the others anywhere."""
    rng = np.random.default_rng(seed)
    near = OBJECTS[rng.integers(0, 3, num_slots)] + rng.uniform(-2, 2, (num_slots, 4))
    corner = rng.uniform(0, 60, (num_slots, 2))
    far = np.concatenate([corner, corner + rng.uniform(4, 30, (num_slots, 2))], axis=1)
    found = np.where(rng.uniform(size=(num_slots, 1)) < 0.5, near, far).astype("f")
    valid = np.arange(num_slots) < num_valid
    return Proposals(np.where(valid[:, None], found, 0), valid)


@pytest.mark.parametrize("seed", range(5))
def test_sampled_rois_are_what_they_are_said_to_be(seed):
    given = proposals(seed)
    sampled = jax.tree.map(np.asarray, roi_targets(jax.random.key(seed), given, instances()))
    candidates = np.concatenate([given.boxes[given.valid], OBJECTS])
    available = (overlaps(OBJECTS, candidates).max(axis=0) >= 0.5).sum()
    iou = overlaps(OBJECTS, sampled.boxes)
    assert sampled.positive.sum() == min(8, available) and sampled.valid.all()
    np.testing.assert_array_equal(sampled.positive, np.arange(32) < sampled.positive.sum())
    np.testing.assert_array_equal(sampled.positive, iou.max(axis=0) >= 0.5)
    np.testing.assert_array_equal(
        sampled.classes, np.where(sampled.positive, iou.argmax(axis=0) + 1, 0)
    )
    np.testing.assert_array_equal(
        sampled.instances[sampled.positive], iou.argmax(axis=0)[sampled.positive]
    )
    np.testing.assert_array_equal(sampled.deltas[~sampled.positive], 0)
    decoded = boxes.decode(jnp.asarray(sampled.deltas), jnp.asarray(sampled.boxes), ROI.box_weights)
    closest = OBJECTS[sampled.instances]
    np.testing.assert_allclose(decoded[sampled.positive], closest[sampled.positive], atol=1e-2)
    assert {tuple(box) for box in sampled.boxes} <= {tuple(box) for box in candidates}


def test_objects_themselves_are_candidates():
    nothing = Proposals(np.zeros((60, 4), "f"), np.zeros(60, bool))
    sampled = roi_targets(jax.random.key(0), nothing, instances())
    assert sampled.valid.sum() == sampled.positive.sum() == 3
    assert {tuple(box) for box in np.asarray(sampled.boxes[:3])} == {tuple(box) for box in OBJECTS}
    np.testing.assert_allclose(sampled.deltas[:3], 0, atol=1e-5)


def mmdet_roi(**settings):
    rule = {"low_quality": "assign", "min_low_quality_iou": 0.5, "ground_truth": "first"}
    return freeze(RoIConfig(**({"num_samples": 400} | rule | settings)))


def test_objects_in_front_belong_to_themselves():
    """Of two equal objects, matching by overlap would give both boxes to the first."""
    twins = np.float32([[10, 10, 40, 40], [10, 10, 40, 40]])
    nothing = Proposals(np.zeros((60, 4), "f"), np.zeros(60, bool))
    first, last = (
        jax.tree.map(np.asarray, roi_targets(jax.random.key(0), nothing, instances(twins), config))
        for config in (mmdet_roi(), ROI)
    )
    assert sorted(first.instances[:2]) == [0, 1] and sorted(first.classes[:3]) == [0, 1, 2]
    assert last.instances[:2].tolist() == [0, 0] and last.valid.sum() == first.valid.sum() == 2


def test_objects_take_their_closest_proposals():
    """The proposal overlaps the second object more, and is the closest of the first."""
    objects = np.float32([[0, 0, 40, 40], [0, 8, 40, 48], [60, 60, 70, 70]])
    given = Proposals(np.zeros((60, 4), "f"), np.arange(60) < 2)
    given.boxes[:2] = [[0, 5, 40, 45], [0, 8, 40, 47]]
    given.boxes[2:4] = objects[:2]  # Empty slots are the closest of no object.
    iou = overlaps(objects[:2], given.boxes[:2])
    assert (iou.argmax(axis=0) == 1).all() and iou[0].argmax() == 0 and iou.min() > 0.5

    def matched(config):
        found = roi_targets(jax.random.key(0), given, instances(objects), config)
        boxes_and_instances = zip(found.boxes.tolist(), found.instances.tolist(), strict=True)
        return {tuple(box): instance for box, instance in boxes_and_instances}

    one, two = (tuple(box) for box in given.boxes[:2].tolist())
    found, plain = matched(mmdet_roi()), matched(mmdet_roi(low_quality="none"))
    assert (found[one], found[two], plain[one], plain[two]) == (0, 1, 1, 1)
    # Among the candidates, the objects themselves are closer than any proposal.
    assert matched(mmdet_roi(ground_truth="last"))[one] == 1


@pytest.mark.parametrize("padding", [0.0, np.nan, 33.0])
@pytest.mark.parametrize("config", [ROI, mmdet_roi(num_samples=32)], ids=["torchvision", "mmdet"])
def test_empty_slots_change_no_roi(padding, config):
    """Neither the number nor the content of empty slots changes the samples."""
    key, given = jax.random.key(2), proposals(0)
    expected = roi_targets(key, given, instances(num_slots=3), config)
    more = Proposals(
        np.concatenate([given.boxes, np.full((9, 4), 33, "f")]),
        np.append(given.valid, np.zeros(9, bool)),
    )
    sampled = roi_targets(key, more, instances(padding=padding), config)
    jax.tree.map(np.testing.assert_array_equal, sampled, expected)


def test_without_objects_all_rois_are_background():
    sampled = roi_targets(jax.random.key(0), proposals(1), instances(OBJECTS[:0]))
    assert sampled.valid.all() and not sampled.positive.any()
    np.testing.assert_array_equal(sampled.classes, 0)
    np.testing.assert_array_equal(sampled.deltas, 0)


def test_an_object_without_area_is_no_roi():
    objects = np.float32([[10, 10, 40, 40], [20, 20, 20, 30]])
    sampled = roi_targets(jax.random.key(0), proposals(2), instances(objects, num_slots=3))
    assert set(np.asarray(sampled.classes)) == {0, 1}
    assert np.isfinite(sampled.deltas).all()
    assert (sampled.boxes[:, 2] > sampled.boxes[:, 0])[sampled.valid].all()


def test_mask_targets_show_the_matched_object_inside_the_roi():
    given = instances()
    half = np.zeros((8, 8), np.uint8)
    half[:, :4] = 255  # The left half of the first object: x from 10 to 25.
    given.masks.values[0] = half
    sampled = roi_targets(jax.random.key(0), proposals(3), given)
    masks = np.asarray(mask_targets(sampled, given))
    assert masks.shape == (32, 28, 28)
    np.testing.assert_array_equal(masks[~np.asarray(sampled.positive)], 0)
    shown = 0
    for mask, box, i, positive in zip(
        masks, np.asarray(sampled.boxes), sampled.instances, sampled.positive, strict=True
    ):
        if positive:
            x0, y0, x1, y1 = np.asarray(given.boxes)[i]
            right = (x0 + x1) / 2 if i == 0 else x1
            width, height = (
                max(min(a, b) - max(c, d), 0)
                for a, b, c, d in zip((right, y1), box[2:], (x0, y0), box[:2], strict=True)
            )
            area = (box[2] - box[0]) * (box[3] - box[1])
            np.testing.assert_allclose(mask.mean(), width * height / area, atol=1e-4)
            shown += i == 0
    assert shown > 0


def bitmaps(bucket, num_slots=6):
    """The left half of each object as masks of a 60 x 90 image, with noise beyond the image."""
    masks = np.zeros((num_slots, *bucket), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, OBJECTS.astype(int), strict=False):
        mask[y0:y1, x0 : (x0 + x1) // 2] = 255
    masks[:, 60:], masks[:, :, 90:] = 255, 255
    return Bitmaps(masks)


def test_mask_targets_of_whole_masks_are_samples_of_the_image():
    given = instances()._replace(masks=bitmaps((64, 96)))
    sampled = roi_targets(jax.random.key(0), proposals(3), given)
    masks = np.asarray(mask_targets(sampled, given, jnp.array([60, 90])))
    positive = np.asarray(sampled.positive)
    assert masks.shape == (32, 28, 28) and positive.any() and not positive.all()
    np.testing.assert_array_equal(masks[~positive], 0)
    for mask, box, i in zip(
        masks[positive], sampled.boxes[positive], sampled.instances[positive], strict=True
    ):
        image = given.masks.values[i, :60, :90, None] / 255
        expected = oracles.roi_align(image, np.asarray(box)[None], 1.0, 28, 0, False)[0, :, :, 0]
        assert 0.2 < expected.mean() < 0.8
        np.testing.assert_allclose(mask, expected, atol=1e-5)


@pytest.mark.parametrize("rule, end", [("detectron2", (60, 90)), ("mmdetection", (64, 96))])
def test_binary_mask_targets_of_whole_masks_are_samples_in_their_places(rule, end):
    given = instances()._replace(masks=bitmaps((64, 96)))
    sampled = roi_targets(jax.random.key(0), proposals(3), given)
    masks = np.asarray(mask_targets(sampled, given, jnp.array([60, 90]), rule=rule))
    positive = np.asarray(sampled.positive)
    assert set(np.unique(masks)) == {0, 1} and not masks[~positive].any()
    for mask, box, i in zip(
        masks[positive], sampled.boxes[positive], sampled.instances[positive], strict=True
    ):
        image = given.masks.values[i, : end[0], : end[1], None] / 255
        share = oracles.roi_align(image, np.asarray(box)[None], 1.0, 28, 0, True)[0, :, :, 0]
        is_clear = abs(share - 0.5) > 1e-5
        np.testing.assert_array_equal(mask[is_clear], share[is_clear] > 0.5)


def test_binary_mask_targets_of_crops_are_rounded_shares():
    sampled = roi_targets(jax.random.key(0), proposals(3), instances())
    shares, masks = (
        mask_targets(sampled, instances(), rule=rule) for rule in ("share", "detectron2")
    )
    assert ((shares > 0) & (shares < 0.4)).any()
    np.testing.assert_array_equal(masks, (shares >= 0.5).astype(np.float32))


def test_mask_targets_of_whole_masks_are_the_same_in_a_larger_bucket():
    narrow, wide = (
        instances()._replace(masks=bitmaps(bucket)) for bucket in ((64, 96), (128, 160))
    )
    sampled, size = roi_targets(jax.random.key(0), proposals(3), narrow), jnp.array([60, 90])
    expected = mask_targets(sampled, narrow, size)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(mask_targets(sampled, wide, size), expected)


def test_a_crop_of_the_shape_of_the_image_is_a_crop():
    """The type of the masks, not their shape, says which part of the image they cover."""
    full = np.full((6, 64, 64), 255, np.uint8)
    full[:, :, 48:] = 0
    given, size = instances(), jnp.array([64, 64])
    # Without proposals, all objects are sampled.
    none = proposals(3, num_valid=0)
    sampled = roi_targets(jax.random.key(0), none, given)
    (first,) = [
        k for k, box in enumerate(np.asarray(sampled.boxes)) if np.array_equal(box, OBJECTS[0])
    ]
    as_crop, as_bitmap = (
        mask_targets(sampled, given._replace(masks=kind(full)), size) for kind in (Crops, Bitmaps)
    )
    np.testing.assert_allclose(as_crop[first], np.tile(np.arange(28) < 21, (28, 1)), atol=1e-4)
    np.testing.assert_allclose(as_bitmap[first], 1, atol=1e-5)  # The object ends at x = 40.


def test_a_batch_without_masks_has_no_mask_targets():
    given = instances()._replace(masks=None)
    sampled = roi_targets(jax.random.key(0), proposals(3), given)
    with pytest.raises(ValueError, match="the batch has none"):
        mask_targets(sampled, given)


NUM_CLASSES = 31  # With background.


def head(**settings):
    settings = {"classifier": "sigmoid", "federated_classes": 12} | settings
    return ModelConfig(num_classes=NUM_CLASSES, box_head=BoxHeadConfig(**settings))


def rois(classes, num_empty=3):
    """RoIs of these classes; the classes of empty slots mean nothing."""
    slots = np.concatenate([classes, np.full(num_empty, 30)]).astype(np.int32)
    valid = np.arange(len(slots)) < len(classes)
    zeros = np.zeros((len(slots), 4), np.float32)
    return RoITargets(zeros, slots, zeros, slots, valid & (slots > 0), valid)


def counted(seed, classes, **settings):
    key = jax.random.fold_in(jax.random.key(seed), 7)
    found = targets.counted_classes(key, rois(classes), config=head(**settings))
    return found if found is None else set(np.flatnonzero(found).tolist())


def test_softmax_counts_no_classes_and_sigmoid_all_of_them():
    assert counted(0, [1], classifier="softmax", federated_classes=None) is None
    assert counted(0, [1], federated_classes=None) == set(range(NUM_CLASSES))


@pytest.mark.parametrize("classes", [[3, 5, 5, 0, 0], [3], [0], range(1, 25), range(12)])
def test_the_classes_of_the_rois_count_and_others_up_to_the_number(classes):
    found = counted(0, classes)
    present = set(classes)
    assert present <= found and len(found) == max(12, len(present))
    assert (0 in found) == (0 in present)  # Background is never drawn.


def test_classes_without_training_images_are_not_drawn():
    frequencies = tuple(float(k % 3 == 0) for k in range(1, NUM_CLASSES))
    assert counted(0, [1, 2], class_frequencies=frequencies) == {1, 2, *range(3, 31, 3)}


def test_frequent_classes_are_drawn_more_often():
    """By the square root of their frequencies, by default: 1 and 100 times the weight of others."""
    frequencies = (1e4, *(1.0,) * (NUM_CLASSES - 2))
    settings = {"class_frequencies": frequencies, "federated_classes": 2}
    draws = [counted(seed, [5], **settings) for seed in range(40)]
    assert 20 < sum(1 in found for found in draws) < 40
    equal = [counted(seed, [5], federated_power=0.0, **settings) for seed in range(40)]
    assert sum(1 in found for found in equal) < 10


def test_the_draw_depends_on_the_key_and_not_on_empty_slots():
    draws = [counted(seed, [3, 5, 0]) for seed in range(4)]
    assert draws[0] == counted(0, [0, 5, 3, 3]) and len(set(map(frozenset, draws))) == 4
    key = jax.random.fold_in(jax.random.key(0), 7)
    more = targets.counted_classes(key, rois([3, 5, 0], num_empty=50), config=head())
    assert draws[0] == set(np.flatnonzero(more).tolist())
    # The draws of RoIs by the same key are others.
    children = [*jax.random.split(key), jax.random.fold_in(key, 2)]
    assert len({tuple(jax.random.key_data(x).tolist()) for x in children}) == 3


@pytest.mark.parametrize("number", [12, None])
def test_devices_draw_the_classes_of_their_own_images(number):
    keys = jax.random.split(jax.random.key(3), 4)
    batch = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 4), rois([3, 5, 0]))
    draw = partial(targets.counted_classes, config=head(federated_classes=number))
    mapped = sharding.per_image(sharding.make_mesh(2, 4))(draw)
    found = jax.jit(mapped, compiler_options=QUICK_COMPILE)(keys, batch)
    np.testing.assert_array_equal(found, jax.vmap(draw)(keys, batch))
    assert found.shape == (4, NUM_CLASSES)
