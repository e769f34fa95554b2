"""Sigmoid scores and the federated loss against Detectron2's box head, live.

It needs a checkout of Detectron2, which the environment variable DETECTRON2 names, and ``fvcore
iopath omegaconf hydra-core yacs``; nothing of it is compiled.
"""

import importlib
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch", reason="the live comparison needs torch")
if not os.environ.get("DETECTRON2"):
    pytest.skip("DETECTRON2 does not name a checkout", allow_module_level=True)

from maskrcnn_jax import losses, targets  # noqa: E402
from maskrcnn_jax.config import DetectionConfig  # noqa: E402
from maskrcnn_jax.detections import detect  # noqa: E402
from maskrcnn_jax.model_config import BoxHeadConfig, ModelConfig  # noqa: E402
from maskrcnn_jax.structures import Proposals, RoITargets  # noqa: E402
from maskrcnn_jax.weights import detectron2 as names  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of packages that are imported.
    importlib.import_module("maskrcnn_jax.parity.detectron2")  # Makes Detectron2 importable.
    box_regression = importlib.import_module("detectron2.modeling.box_regression")
    fast_rcnn = importlib.import_module("detectron2.modeling.roi_heads.fast_rcnn")
structures = importlib.import_module("detectron2.structures")
layers = importlib.import_module("detectron2.layers")
events = importlib.import_module("detectron2.utils.events")

NUM_CLASSES, NUM_ROIS, WEIGHTS = 40, 24, (10.0, 10.0, 5.0, 5.0)  # Without background.
FREQUENCIES = np.random.default_rng(0).integers(0, 500, NUM_CLASSES).astype(float)
SIZE = (200, 300)


def box_head(federated):
    settings = {"use_sigmoid_ce": True, "test_score_thresh": 1e-4, "test_topk_per_image": 300}
    if federated:
        weights = torch.tensor(FREQUENCIES, dtype=torch.float32) ** 0.5
        settings |= {"use_fed_loss": True, "fed_loss_num_classes": 12}
        settings["get_fed_loss_cls_weights"] = lambda: weights
    transform = box_regression.Box2BoxTransform(weights=WEIGHTS)
    shape = layers.ShapeSpec(channels=8)
    kept = {"box2box_transform": transform, "num_classes": NUM_CLASSES}
    return fast_rcnn.FastRCNNOutputLayers(shape, **kept, **settings)


def config(**settings):
    head = {"classifier": "sigmoid", "federated_classes": 12} | settings
    head["class_frequencies"] = tuple(FREQUENCIES.tolist())
    return ModelConfig(num_classes=NUM_CLASSES + 1, box_head=BoxHeadConfig(**head))


def random_boxes(random, count):
    corner = random.uniform(0, (250, 150), (count, 2))
    return np.concatenate([corner, corner + random.uniform(10, 50, (count, 2))], 1).astype("f")


def random_rois(seed):
    """RoIs of two images of few classes, with predictions; 0 is background."""
    random = np.random.default_rng(seed)
    classes = random.choice([0, 0, 3, 5, 17, 40], (2, NUM_ROIS))
    logits = random.normal(0, 2, (2, NUM_ROIS, NUM_CLASSES + 1)).astype("f")
    deltas = random.normal(0, 1, (2, NUM_ROIS, NUM_CLASSES + 1, 4)).astype("f")
    boxes = np.stack([random_boxes(random, NUM_ROIS) for _ in range(2)])
    objects = boxes + random.uniform(-4, 4, boxes.shape).astype("f")
    return boxes, objects, classes, logits, deltas


def theirs(head, boxes, objects, classes, logits, deltas):
    """Losses of Detectron2, their gradients by our logits and deltas, and the drawn classes."""
    ours = [torch.tensor(x, requires_grad=True) for x in (logits, deltas)]
    scores = ours[0].roll(-1, dims=2).reshape(2 * NUM_ROIS, -1)  # Background comes last there.
    changes = ours[1][:, :, 1:].reshape(2 * NUM_ROIS, -1)
    instances = []
    for i in range(2):
        of_image = structures.Instances(SIZE)
        of_image.proposal_boxes = structures.Boxes(torch.tensor(boxes[i]))
        of_image.gt_boxes = structures.Boxes(torch.tensor(objects[i]))
        of_image.gt_classes = torch.tensor((classes[i] - 1) % (NUM_CLASSES + 1))
        instances.append(of_image)
    drawn, draw = [], head.get_fed_loss_classes
    head.get_fed_loss_classes = lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]
    with events.EventStorage():
        found = head.losses((scores, changes), instances)
    sum(found.values()).backward()
    counted = np.ones(NUM_CLASSES + 1, bool)
    if drawn:
        counted[:] = False
        counted[(drawn[0].numpy() + 1) % (NUM_CLASSES + 1)] = True
    values = {name: float(x.detach()) for name, x in found.items()}
    return values, [x.grad.numpy() for x in ours], counted


def box_targets(boxes, objects, classes):
    positive = classes > 0
    transform = box_regression.Box2BoxTransform(weights=WEIGHTS)
    pair = (torch.tensor(x.reshape(-1, 4)) for x in (boxes, objects))
    deltas = transform.get_deltas(*pair).numpy().reshape(boxes.shape)
    deltas = np.where(positive[..., None], deltas, 0)
    return RoITargets(boxes, classes, deltas, classes, positive, classes >= 0)


@pytest.mark.parametrize("federated", [False, True])
def test_losses_and_gradients_on_the_same_rois_and_classes(federated):
    boxes, objects, classes, logits, deltas = random_rois(1)
    torch.manual_seed(0)
    expected, gradients, counted = theirs(
        box_head(federated), boxes, objects, classes, logits, deltas
    )
    assert counted.sum() == (12 if federated else NUM_CLASSES + 1)
    rois = jax.tree.map(jnp.asarray, box_targets(boxes, objects, classes))

    def total(predictions):
        both = jnp.array([counted, counted])
        found = losses.box_loss(*predictions, rois, both, beta=0.0)
        means = {name: losses.mean(pair) for name, pair in found.items()}
        return sum(means.values()), means

    (_, means), ours = jax.value_and_grad(total, has_aux=True)((logits, deltas))
    assert float(means["loss_classifier"]) == pytest.approx(expected["loss_cls"], rel=1e-5)
    assert float(means["loss_box_reg"]) == pytest.approx(expected["loss_box_reg"], rel=1e-5)
    for found, gradient in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-7)
    assert not ours[0][..., 0].any()  # Background learns nothing.


def test_classes_are_drawn_as_often():
    """In 3000 draws of each, for RoIs of one image; 5 standard deviations of the difference."""
    count, present = 3000, np.array([0, 3, 5, 17])
    head = box_head(True)
    settings = {"num_fed_loss_classes": 12, "num_classes": NUM_CLASSES}
    settings["weight"] = head.fed_loss_cls_weights
    gt_classes = torch.tensor((present - 1) % (NUM_CLASSES + 1))
    torch.manual_seed(0)
    there = np.zeros(NUM_CLASSES + 1)
    for _ in range(count):
        drawn = head.get_fed_loss_classes(gt_classes, **settings).numpy()
        there[(drawn + 1) % (NUM_CLASSES + 1)] += 1 / count
    slots = np.zeros((4, 4), np.float32)
    rois = RoITargets(slots, present, slots, present, present > 0, present >= 0)
    rois = jax.tree.map(jnp.asarray, rois)
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda key: targets.counted_classes(key, rois, config=config())))
    here = np.asarray(draw(keys)).mean(0)
    deviation = np.sqrt(2 * there * (1 - there) / count)
    assert (np.abs(here - there) <= 5 * deviation).all()
    assert (here == 1).sum() == 4 and ((here > 0) & (here < 1)).sum() > 30


def test_detections_of_sigmoid_scores():
    random = np.random.default_rng(2)
    boxes = random_boxes(random, NUM_ROIS)
    logits = random.normal(-3, 2, (NUM_ROIS, NUM_CLASSES + 1)).astype("f")
    deltas = random.normal(0, 1, (NUM_ROIS, NUM_CLASSES + 1, 4)).astype("f")
    head = box_head(False)
    instances = structures.Instances(SIZE)
    instances.proposal_boxes = structures.Boxes(torch.tensor(boxes))
    predictions = np.roll(logits, -1, axis=1), deltas[:, 1:].reshape(NUM_ROIS, -1)
    (expected,), _ = head.inference(tuple(map(torch.tensor, predictions)), [instances])
    rules = {"config": DetectionConfig(num_detections=300, min_box_size=0.0)}
    rules |= {"box_weights": WEIGHTS, "classifier": "sigmoid"}
    proposals = Proposals(boxes, np.ones(NUM_ROIS, bool))
    given = logits, deltas, proposals, np.array(SIZE), np.float32(1e-4)
    found = detect(*jax.tree.map(jnp.asarray, given), **rules)
    assert len(expected) == found.valid.sum() == 300
    np.testing.assert_array_equal(found.classes, expected.pred_classes.numpy() + 1)
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.pred_boxes.tensor.numpy(), atol=1e-3)


def test_the_name_and_the_numbers_of_the_weights_of_the_draw():
    state = box_head(True).state_dict(prefix="roi_heads.box_predictor.")
    (ours,) = names.extras(config()).items()
    assert ours[0] in state
    np.testing.assert_allclose(ours[1], state[ours[0]].numpy(), rtol=1e-6)
