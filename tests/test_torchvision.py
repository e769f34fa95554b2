"""Our model against torchvision's, live, with the same random weights; skipped without torch and torchvision.

Every stage is fed with torchvision's input to it, so that a difference shows where it arises.
"""

import json
import os

import numpy as np
import pytest

pytestmark = [pytest.mark.filterwarnings("ignore")]  # torch's own warnings differ from version to version.
pytest.importorskip("torch", reason="the live comparison needs torch")
if not os.environ.get("MASKRCNN_JAX_SHARED"):
    pytest.skip("MASKRCNN_JAX_SHARED does not name the folder with the photographs", allow_module_level=True)

from maskrcnn_jax import images  # noqa: E402
from maskrcnn_jax.config import ModelConfig  # noqa: E402
from maskrcnn_jax.weights import torchvision  # noqa: E402
from tests.golden import recipe, stages, write_torchvision  # noqa: E402

SHORT_SIDE, MAX_LONG_SIDE = 800, 1333
TOLERANCES = {"input": 5e-6, "C": 2e-5, "P": 2e-5, "logits": 2e-5, "deltas": 2e-5}
TOLERANCES |= {"pooled": 2e-5, "class_logits": 2e-5, "class_deltas": 2e-5}


@pytest.fixture(scope="module")
def photographs(shared):
    """A landscape and a portrait of COCO."""
    root = shared / "data" / "coco_subset"
    records = json.loads((root / "instances_val.json").read_text())["images"]
    wide = next(r for r in records if r["width"] > r["height"])
    tall = next(r for r in records if r["width"] < r["height"])
    return [images.read_image(root / "val" / record["file_name"]) for record in (wide, tall)]


def batch(pictures, short_side, max_long_side, bucket=None):
    pictures = [recipe.resized(picture, short_side, max_long_side) for picture in pictures]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    bucket = bucket or images.ceil32(sizes.max(axis=0))
    return recipe.pad(pictures, bucket), sizes, bucket


def compare(config, model, pictures, short_side, max_long_side):
    """Asserts that all stages agree; returns the largest relative error of each."""
    theirs = write_torchvision.stages(model, pictures)
    padded, sizes, bucket = batch(pictures, short_side, max_long_side)
    canvas = np.array([bucket] * len(pictures), np.int32)
    variables = torchvision.from_state_dict(recipe.state_dict(config), config)
    inputs = [theirs[name] for name in ("proposals", "boxes", "labels")]
    ours = stages.inference(config, variables, padded, sizes, canvas, *inputs)
    errors = {
        name: max(stages.relative_error(a, b) for a, b in zip(ours[name], theirs[name], strict=True))
        for name in TOLERANCES
    }
    for i in range(len(pictures)):
        same = np.zeros(len(theirs["proposals"][i]))
        errors[f"proposals_{i}"] = 1 - stages.share_found(
            (theirs["proposals"][i], same, same), (ours["proposals"][i], *[np.zeros(len(ours["proposals"][i]))] * 2)
        )
        errors[f"detections_{i}"] = 1 - found_share(theirs, ours, i)
        errors[f"masks_{i}"] = np.abs(ours["masks"][i] - theirs["masks"][i]).max()
    print({name: float(f"{error:.2g}") for name, error in errors.items()})
    for name, tolerance in TOLERANCES.items():
        assert errors[name] < tolerance, name
    for i in range(len(pictures)):
        assert len(theirs["boxes"][i]) >= 40
        assert len(ours["boxes"][i]) == len(theirs["boxes"][i])
        assert errors[f"proposals_{i}"] <= 0.005
        assert errors[f"detections_{i}"] <= 0.005
        assert errors[f"masks_{i}"] < 1e-4
    return theirs


def found_share(theirs, ours, i):
    names = ("boxes", "labels", "scores")
    return stages.share_found([theirs[name][i] for name in names], [ours[name][i] for name in names])


@pytest.fixture(scope="module")
def small():
    config = recipe.small_config()
    return config, write_torchvision.build(config, recipe.SHORT_SIDE, recipe.MAX_LONG_SIDE)


def test_images_that_share_a_canvas(small):
    pictures = [example.image for example in recipe.examples()]
    compare(*small, pictures, recipe.SHORT_SIDE, recipe.MAX_LONG_SIDE)


def test_an_image_in_a_bucket_is_as_if_alone(small):
    config, model = small
    pictures = [example.image for example in recipe.examples()]
    variables = torchvision.from_state_dict(recipe.state_dict(config), config)
    padded, sizes, _ = batch(pictures, recipe.SHORT_SIDE, recipe.MAX_LONG_SIDE, (288, 320))
    ours = stages.detect(config, variables, padded, sizes)
    for i, picture in enumerate(pictures):
        alone = write_torchvision.stages(model, [picture])
        share = stages.share_found(
            [alone[name][0] for name in ("boxes", "labels", "scores")],
            [ours[name][i] for name in ("boxes", "labels", "scores")],
        )
        assert share >= 0.995


def test_a_photograph_at_full_size(photographs):
    config = ModelConfig(num_classes=91)
    model = write_torchvision.build(config, SHORT_SIDE, MAX_LONG_SIDE)
    for photograph in photographs:
        compare(config, model, [photograph], SHORT_SIDE, MAX_LONG_SIDE)


def test_training(small):
    config, model = small
    examples = recipe.examples()
    theirs = write_torchvision.training(model, examples)
    padded, sizes, bucket = batch([e.image for e in examples], recipe.SHORT_SIDE, recipe.MAX_LONG_SIDE)
    canvas = np.array([bucket] * 2, np.int32)
    truth = theirs["truth"]

    anchors = [stages.anchor_labels(config, bucket, canvas[i], truth[i]) for i in range(2)]
    for i, (grid, labels, deltas) in enumerate(anchors):
        np.testing.assert_array_equal(grid, theirs["anchors"][i])
        np.testing.assert_array_equal(labels, theirs["anchor_labels"][i])
        positive = labels == 1
        assert positive.sum() >= len(truth[i])
        np.testing.assert_allclose(deltas[positive], theirs["anchor_deltas"][i][positive], atol=1e-5)

        labels, matched, deltas = stages.roi_labels(config, theirs["candidates"][i], truth[i])
        np.testing.assert_array_equal(labels == 1, theirs["candidate_classes"][i] > 0)
        positive = labels == 1
        np.testing.assert_array_equal(matched[positive], theirs["candidate_instances"][i][positive])
        np.testing.assert_array_equal(examples[i].classes[matched[positive]], theirs["candidate_classes"][i][positive])

    samples = [theirs[name] for name in ("positive_anchors", "negative_anchors")]
    targets = stages.sampled_anchors(config, *samples, [deltas for _, _, deltas in anchors])
    samples = [theirs[name] for name in ("rois", "roi_classes", "roi_instances")]
    rois, orders = stages.sampled_rois(config, *samples, truth)
    for i, order in enumerate(orders):
        positive = rois.positive[i]
        np.testing.assert_allclose(
            rois.deltas[i][positive], theirs["roi_deltas"][i][order][: positive.sum()], atol=1e-4
        )
    masks = stages.slots(theirs["mask_targets"], 16)
    variables = torchvision.from_state_dict(recipe.state_dict(config), config)
    means, gradients = stages.losses_and_gradients(config, variables, padded, sizes, canvas, targets, rois, masks)
    for name, value in means.items():
        assert value == pytest.approx(theirs["losses"][name], rel=1e-4), name
    ours = torchvision.to_state_dict({"params": gradients, "constants": variables["constants"]}, config)
    errors = {
        name: np.linalg.norm(ours[name] - gradient) / np.linalg.norm(gradient)
        for name, gradient in theirs["gradients"].items()
    }
    worst = max(errors, key=errors.get)
    print({name: (value, theirs["losses"][name]) for name, value in means.items()}, worst, errors[worst])
    assert errors[worst] < 1e-3, worst
    frozen = [entry.name for entry in torchvision.entries(config) if entry.path[0] == "params"]
    for name in set(frozen) - set(theirs["gradients"]):
        assert not ours[name].any(), name
