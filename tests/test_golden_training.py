"""Training rules of Detectron2 and MMDetection against recordings of a step of each.

`tests.golden.write_family_training` made the recordings. The libraries' draws, proposals and
outputs of the heads are given, so no network runs here.
"""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest

from maskrcnn_jax import losses
from maskrcnn_jax.config import Config
from maskrcnn_jax.parity import training_replay
from maskrcnn_jax.settings import from_dict, to_dict
from maskrcnn_jax.structures import Batch
from tests.conftest import QUICK_COMPILE
from tests.golden import family_training
from tests.golden.family_training import Recording
from tests.parity.peer_replay import Replay, Samples

quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)
LIBRARIES = tuple(family_training.PRESETS)
every_library = pytest.mark.parametrize("library", LIBRARIES)


class Case(NamedTuple):
    """A recorded step, and our targets for its draws."""

    config: Config
    recording: Recording
    samples: Samples
    num_wrong: int  # Candidates that we label otherwise.


def batch() -> Batch:
    (found,) = training_replay.batches([family_training.examples()], 30, 1333)
    return found


def replayed(config: Config, recording: Recording) -> Case:
    given = batch()
    bucket, slots = given.images.shape[1:3], given.instances.valid.shape[1]
    replay = Replay(config.model, bucket, slots, quick_jit)
    samples = jax.device_get(replay.samples(given, recording))
    return Case(config, recording, samples, replay.num_wrong(samples, recording))


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {
        library: replayed(family_training.config(library), family_training.read(library))
        for library in LIBRARIES
    }


def masks_of_positives(case: Case) -> np.ndarray:
    positive = case.samples.rois.positive[:, : case.samples.masks.shape[1]]
    return case.samples.masks[positive]


def in_slots(case: Case) -> dict[str, np.ndarray]:
    """The recorded outputs in the slots of our samples."""
    valid = {"logits": case.samples.anchors.valid, "class_logits": case.samples.rois.valid}
    valid |= {"deltas": valid["logits"], "class_deltas": valid["class_logits"]}
    valid["mask_logits"] = case.samples.rois.positive[:, : case.samples.masks.shape[1]]
    found = {}
    for name, values in case.recording.outputs.items():
        found[name] = np.zeros((*valid[name].shape, *values.shape[1:]), np.float32)
        found[name][valid[name]] = values
    return found


def means_and_gradients(case: Case) -> tuple[dict, dict]:
    """Our losses for the recorded outputs, and the gradient of their sum by the outputs."""
    rpn, roi = case.config.model.rpn, case.config.model.roi

    @quick_jit
    @partial(jax.value_and_grad, has_aux=True)
    def total(outputs, samples):
        anchors, rois, masks, *_ = samples
        positives = jax.tree.map(lambda x: x[:, : masks.shape[1]], rois)
        logits, deltas = outputs["logits"], outputs["deltas"]
        rule = {"beta": rpn.smooth_l1_beta, "divisor": rpn.loss_divisor}
        found = losses.rpn_loss(logits, deltas, anchors, **rule)
        by_class = outputs["class_logits"], outputs["class_deltas"]
        found |= losses.box_loss(*by_class, rois, beta=roi.smooth_l1_beta)
        found |= losses.mask_loss(outputs["mask_logits"], masks, positives)
        means = {name: losses.mean(loss) for name, loss in found.items()}
        return sum(means.values()), means

    (_, means), gradients = total(in_slots(case), case.samples)
    return jax.device_get(means), jax.device_get(gradients)


def differences(case: Case) -> dict[str, float]:
    """The relative error of each loss, and of the gradient by each output."""
    means, gradients = means_and_gradients(case)
    found = {
        name: abs(means[name] - theirs) / theirs for name, theirs in case.recording.losses.items()
    }
    theirs = in_slots(
        case._replace(recording=case.recording._replace(outputs=case.recording.gradients))
    )
    for name, gradient in theirs.items():
        error = np.linalg.norm(gradients[name] - gradient)
        found[f"gradient of {name}"] = error / np.linalg.norm(gradient)
    return found


@every_library
def test_candidates_have_the_labels_of_the_library(cases, library):
    case = cases[library]
    assert case.num_wrong == 0
    # Else the recording would not tell the divisors of the RPN's losses apart.
    drawn = [len(x.positive) + len(x.negative) for x in case.recording.anchors]
    assert max(drawn) < case.config.model.rpn.num_samples
    assert min(len(x.positive) for x in case.recording.anchors + case.recording.rois) > 0


@every_library
def test_mask_targets_are_those_of_the_library(cases, library):
    case = cases[library]
    np.testing.assert_array_equal(masks_of_positives(case), case.recording.mask_targets)
    assert 0.2 < case.recording.mask_targets.mean() < 0.9


@every_library
def test_losses_and_gradients_are_those_of_the_library(cases, library):
    found = differences(cases[library])
    assert len(found) == 10 and max(found.values()) < 1e-5, found


def changed(config: Config, field: str, value: object) -> Config:
    """A copy of a config with another value of a field."""
    copy = from_dict(Config, to_dict(config))
    *parents, name = field.split(".")
    owner = copy.model
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, value)
    return copy


LOSS_RULES = [
    ("detectron2", "rpn.loss_divisor", "drawn"),
    ("detectron2", "rpn.loss_divisor", "mmdetection"),
    ("detectron2", "rpn.smooth_l1_beta", 1 / 9),
    ("detectron2", "roi.smooth_l1_beta", 1 / 9),
    ("mmdetection", "rpn.loss_divisor", "fixed"),
]


@pytest.mark.parametrize("library, field, value", LOSS_RULES)
def test_a_wrong_rule_of_the_losses_is_noticed(cases, library, field, value):
    case = cases[library]
    found = differences(case._replace(config=changed(case.config, field, value)))
    assert max(found.values()) > 1e-3


TARGET_RULES = [
    ("detectron2", "rpn.low_quality", "none"),
    ("detectron2", "rpn.low_quality", "assign"),
    ("detectron2", "rpn.min_low_quality_iou", 0.3),
    ("detectron2", "rpn.round_anchors", True),
    ("detectron2", "roi.ground_truth", "first"),
    ("detectron2", "roi.mask_targets", "share"),
    ("mmdetection", "rpn.low_quality", "label"),
    ("mmdetection", "rpn.min_low_quality_iou", 0.0),
    ("mmdetection", "roi.low_quality", "none"),
    ("mmdetection", "roi.min_low_quality_iou", 0.0),
    ("mmdetection", "roi.ground_truth", "last"),
    ("mmdetection", "roi.mask_targets", "share"),
]


@pytest.mark.slow
@pytest.mark.parametrize("library, field, value", TARGET_RULES)
def test_a_wrong_rule_of_the_targets_is_noticed(cases, library, field, value):
    recording = cases[library].recording
    case = replayed(changed(cases[library].config, field, value), recording)
    masks = masks_of_positives(case)
    same_masks = (
        masks.shape == recording.mask_targets.shape and (masks == recording.mask_targets).all()
    )
    is_noticed = case.num_wrong > 0 or not same_masks
    assert is_noticed or max(differences(case).values()) > 1e-3
