"""Our model against a recording of torchvision's, stage by stage and loss by loss: no torch needed.

``tests/golden/write_torchvision.py`` says what is recorded and writes it anew.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from maskrcnn_jax.weights import torchvision
from tests.golden import recipe, stages

CANVAS = (256, 224)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "torchvision.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def setup():
    config = recipe.small_config()
    pictures = [recipe.resized(example.image, recipe.SHORT_SIDE, recipe.MAX_LONG_SIDE) for example in recipe.examples()]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    variables = torchvision.from_state_dict(recipe.state_dict(config), config)
    return config, variables, recipe.pad(pictures, CANVAS), sizes, np.array([CANVAS] * 2, np.int32)


def pair(golden, name):
    return [golden[f"{name}_{i}"] for i in range(2)]


def test_inference(golden, setup):
    config, variables, images, sizes, canvas = setup
    inputs = [pair(golden, name) for name in ("proposals", "boxes", "labels")]
    ours = stages.inference(config, variables, images, sizes, canvas, *inputs)
    for name in ("input", "C", "P", "logits", "deltas", "pooled", "class_logits", "class_deltas"):
        for i, array in enumerate(ours[name]):
            error = stages.relative_error(recipe.sample(array), golden[f"{name}_{i}"])
            assert error < 2e-5, f"{name}_{i}: {error}"
    for theirs, boxes, masks, ours_masks in zip(
        pair(golden, "proposals"), ours["proposals"], pair(golden, "masks"), ours["masks"], strict=True
    ):
        same = np.zeros(len(theirs))
        assert len(boxes) == len(theirs)
        assert stages.share_found((theirs, same, same), (boxes, same, same)) >= 0.995
        np.testing.assert_allclose(ours_masks[: len(masks)], masks, atol=1e-4)
    for i in range(2):
        theirs = [golden[f"{name}_{i}"] for name in ("boxes", "labels", "scores")]
        found = [ours[name][i] for name in ("boxes", "labels", "scores")]
        assert len(found[0]) == len(theirs[0])
        assert stages.share_found(theirs, found) >= 0.995


def test_losses_and_gradients_for_the_same_samples(golden, setup):
    config, variables, images, sizes, canvas = setup
    config = dataclasses.replace(config, frozen_stages=4)  # None of the recorded gradients lies there: compiles faster.
    truth, positives, negatives = (pair(golden, n) for n in ("truth", "positive_anchors", "negative_anchors"))
    matches = [stages.anchor_labels(config, CANVAS, canvas[0], boxes) for boxes in truth]
    for (_, labels, _), positive, negative in zip(matches, positives, negatives, strict=True):
        assert (labels[positive] == 1).all()
        assert (labels[negative] == 0).all()
    anchors = stages.sampled_anchors(config, positives, negatives, [deltas for _, _, deltas in matches])
    samples = [pair(golden, name) for name in ("rois", "roi_classes", "roi_instances")]
    rois, _ = stages.sampled_rois(config, *samples, truth)
    masks = stages.slots(pair(golden, "mask_targets"), 16)

    means, gradients = stages.losses_and_gradients(config, variables, images, sizes, canvas, anchors, rois, masks)
    for name, value in means.items():
        assert value == pytest.approx(golden[name], rel=1e-4), name
    by_name = torchvision.to_state_dict({"params": gradients, "constants": variables["constants"]}, config)
    for key in (key for key in golden if key.startswith("gradient_")):
        theirs = golden[key]
        ours = recipe.sample(by_name[key.removeprefix("gradient_")])
        assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs), key
