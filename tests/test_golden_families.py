"""Compares our stages of inference with recordings of Detectron2's and MMDetection's.

This needs neither program; ``tests/golden/write_families.py`` made the recordings.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import pasting, resizing
from maskrcnn_jax.config import Config
from maskrcnn_jax.detections import detect
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.parity import padding, recipe
from maskrcnn_jax.structures import AnchorScores, Batch, Proposals
from tests.conftest import QUICK_COMPILE
from tests.golden import inference, small

quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


class Family(NamedTuple):
    config: Config
    variables: dict
    golden: dict[str, np.ndarray]
    batch: Batch  # The image, resized by the rules of the config.


@pytest.fixture(scope="module", params=small.FAMILIES)
def family(request):
    config = small.family_config(request.param)
    variables = recipe.variables(config.model)
    with np.load(small.FOLDER / f"{request.param}.npz") as file:
        golden = dict(file)
    assert (small.sample(small.flat(variables)) == golden["weights"]).all(), (
        "other weights than recorded: run python -m tests.golden.write_families"
    )
    return Family(config, variables, golden, batch_of(small.examples()[0].image, config.data))


def batch_of(image, data):
    limits = small.FAMILY_SHORT_SIDE, small.MAX_LONG_SIDE
    size = resizing.resized_size(image.shape[:2], *limits, data.size_rule)
    canvas = resizing.ceil32(size)
    padded = np.zeros((1, *canvas, 3), np.float32)
    padded[0, : size[0], : size[1]] = resizing.resize(image, size, data.resize)
    numbers = np.array([size], np.int32), np.array([canvas], np.int32)
    return Batch(padded, *numbers, image_id=None, instances=None, num_surplus=None)


def check(golden, key, array):
    """Boxes agree to 1e-3 px, other arrays to rounding, relative to their largest value."""
    theirs = golden[key]
    if key in small.WHOLE:
        np.testing.assert_allclose(array, theirs, atol=1e-3, err_msg=key)
    else:
        ours = array if key in small.FAMILY_WHOLE else small.sample(array)
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert error < 2e-5, f"{key}: {error}"


def stages(model, given, sizes, canvas, *, names):
    """The stages whose rules are those of the family, on recorded inputs."""
    pyramid = {level: given[f"pyramid{level}"] for level in range(2, 6)}
    pyramid[6] = pyramid[5][:, ::2, ::2]
    box_weights, limit = model.config.roi.box_weights, model.config.limit_shrinking
    rules = {"config": model.detection, "box_weights": box_weights, "limit_shrinking": limit}
    proposals = Proposals(given["proposals"], jnp.ones(given["proposals"].shape[:2], bool))
    found = {}
    if "proposals" in names:
        scores = AnchorScores(given["objectness"], given["deltas"])
        found["proposals"] = model.propose(scores, pyramid, sizes, canvas, model.detection)
    if "box_features" in names:
        found["box_features"] = model.pool(pyramid, proposals.boxes, canvas, 7)
    if "detections" in names:
        inputs = given["class_logits"], given["class_deltas"], proposals, sizes
        threshold = jnp.full(1, model.detection.score_threshold, jnp.float32)
        found["detections"] = model.each(detect, **rules)(*inputs, threshold)
    return found


def check_boxes(family, names):
    golden, batch, canvas = family.golden, family.batch, tuple(family.batch.canvas[0].tolist())
    np.testing.assert_array_equal(batch.sizes[0], golden["size"])
    by_level = {
        name: padding.fill_anchors(
            {level: golden[f"{name}{level}"] for level in range(2, 7)}, canvas, canvas
        )
        for name in ("objectness", "deltas")
    }
    given = {key: golden[key][None] for key in small.FAMILY_WHOLE if key[-1] > "9"}
    given |= {f"pyramid{level}": golden[f"pyramid{level}"][None] for level in range(2, 6)}
    model = MaskRCNN(family.config.model, family.config.detection)
    run = quick_jit(partial(nn.apply(partial(stages, names=names), model), {}))
    found = jax.device_get(run(given | by_level, batch.sizes, batch.canvas))
    if "proposals" in found:
        check(golden, "proposals", found["proposals"].boxes[found["proposals"].valid])
    if "box_features" in found:
        check(golden, "box_features", found["box_features"][0])
    if "detections" in found:
        detections = found["detections"]
        assert detections.valid.sum() >= 5
        for key, array in zip(("boxes", "labels", "scores"), detections[:3], strict=True):
            check(golden, key, array[detections.valid])


# Each stage takes seconds to compile. The slow test has all of them.
@pytest.mark.parametrize(
    "family, name",
    [*zip(small.FAMILIES, ("proposals", "detections"), strict=True)],
    indirect=["family"],
)
def test_one_rule_for_boxes(family, name):
    """The anchors and proposals of Detectron2, and the detections of MMDetection."""
    check_boxes(family, [name])


@pytest.mark.slow
def test_rules_for_boxes(family):
    """Anchors, proposals, RoIAlign and detections, from recorded maps and scores."""
    check_boxes(family, ["proposals", "box_features", "detections"])


def test_rules_for_images_and_masks(family):
    """The normalised image, and boxes and masks in the original image, without a compiler."""
    golden, config, size = family.golden, family.config, tuple(family.batch.sizes[0].tolist())
    mean, std = (np.array(x, np.float32) for x in (config.model.image_mean, config.model.image_std))
    image = np.zeros_like(family.batch.images[0])
    resized = family.batch.images[0, : size[0], : size[1]]
    image[: size[0], : size[1]] = (resized - mean) / std
    check(golden, "image", image)
    original = small.examples()[0].image.shape[:2]
    boxes, kept = pasting.scale_boxes(golden["boxes"], size, original, config.detection)
    np.testing.assert_allclose(boxes[kept], golden["original_boxes"], atol=1e-3)
    probabilities = 1 / (1 + np.exp(-golden["mask_logits"]))
    masks = pasting.paste(probabilities, boxes, original, config.detection.paste) > 0.5
    theirs = np.unpackbits(golden["masks"], count=masks.size).astype(bool).reshape(masks.shape)
    assert theirs.sum() > 1000
    assert (masks != theirs).sum() <= 1e-3 * theirs.sum()


@pytest.mark.slow
def test_the_whole_network(family):
    """All stages from the backbone to the masks, with the strides and norms of the family."""
    config, variables, golden, batch = family
    (ours,) = inference.run(config, variables, batch, [golden], quick_jit)
    for key, array in ours.items():
        check(golden, key, array)
