"""Compares our stages of inference with recordings of Detectron2's and MMDetection's.

This needs neither program; ``tests/golden/write_families.py`` made the recordings.
"""

from functools import partial

import jax
import numpy as np
import pytest

from maskrcnn_jax import pasting, resizing
from maskrcnn_jax.parity import recipe
from maskrcnn_jax.structures import Batch
from tests.conftest import QUICK_COMPILE
from tests.golden import inference, small

quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


def read(name, variables):
    with np.load(small.FOLDER / f"{name}.npz") as file:
        golden = dict(file)
    assert (small.sample(small.flat(variables)) == golden["weights"]).all(), (
        "other weights than recorded: run python -m tests.golden.write_families"
    )
    return golden


def batch_of(image, data):
    """The image, resized by the rules of the config, and padded."""
    size = resizing.resized_size(
        image.shape[:2], small.SHORT_SIDE, small.MAX_LONG_SIDE, data.size_rule
    )
    canvas = resizing.ceil32(size)
    padded = np.zeros((1, *canvas, 3), np.float32)
    padded[0, : size[0], : size[1]] = resizing.resize(image, size, data.resize)
    numbers = np.array([size], np.int32), np.array([canvas], np.int32)
    return Batch(padded, *numbers, image_id=None, instances=None, num_surplus=None)


@pytest.mark.parametrize("name", small.FAMILIES)
def test_inference(name):
    config = small.family_config(name)
    variables = recipe.variables(config.model)
    golden = read(name, variables)
    image = small.examples()[0].image
    batch = batch_of(image, config.data)
    np.testing.assert_array_equal(batch.sizes[0], golden["size"])
    (ours,) = inference.run(config, variables, batch, [golden], quick_jit)
    assert len(golden["boxes"]) >= 20
    for key, array in ours.items():
        if key in small.WHOLE:
            np.testing.assert_allclose(array, golden[key], atol=1e-3, err_msg=key)
        else:
            error = np.abs(small.sample(array) - golden[key]).max() / np.abs(golden[key]).max()
            assert error < 2e-5, f"{key}: {error}"
    size = tuple(int(x) for x in golden["size"])
    boxes, kept = pasting.scale_boxes(golden["boxes"], size, image.shape[:2], config.detection)
    assert kept.all()
    np.testing.assert_allclose(boxes, golden["original_boxes"], atol=1e-3)
    probabilities = 1 / (1 + np.exp(-ours["mask_logits"]))
    masks = pasting.paste(probabilities, boxes, image.shape[:2], config.detection.paste) > 0.5
    theirs = np.unpackbits(golden["masks"], count=masks.size).astype(bool).reshape(masks.shape)
    assert theirs.sum() > 1000
    assert (masks != theirs).sum() <= 1e-3 * theirs.sum()
