"""A model overfits two images: it finds all objects with class and mask, and nothing else."""

import jax
import numpy as np
import optax
import pytest

from maskrcnn_jax import execution, pasting, presets, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.pipeline import eval_batches
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ConvNeXtConfig, ViTConfig
from tests import oracles


def small_config():
    config = Config()
    data, model = config.data, config.model
    data.test_short_side = data.test_max_long_side = 96
    data.test_buckets = ((96, 96),)
    data.max_instances = 8
    model.num_classes, model.backbone.depth, model.backbone.stem_channels = 6, 18, 32
    model.backbone.norm = model.fpn.norm = "group"
    model.backbone.frozen_stages, model.fpn.channels = 0, 32
    model.box_head.features, model.mask_head.channels = 64, 32
    model.rpn.anchor_sizes = (16.0, 32.0, 48.0, 64.0, 96.0)
    model.rpn.num_proposals = config.detection.num_proposals = 64
    model.roi.num_samples = 64
    config.detection.num_detections = 10
    return config


def resnext(config):
    backbone = config.model.backbone
    backbone.depth, backbone.groups, backbone.width_per_group = 50, 32, 4


def convnext(config):
    config.model.backbone = ConvNeXtConfig(depths=(1, 1, 2, 1), width=32)


def vitdet(config):
    config.model.backbone = ViTConfig(
        image_side=96, width=128, depth=3, num_heads=4, window=4, global_blocks=(2,)
    )
    config.model.fpn.norm, config.model.fpn.top_down = "layer", False


def cascade_of(use):
    """Makes the network a cascade, by the rules of a library."""

    def change(config):
        use(config)
        config.model.rpn.num_proposals = 64

    return change


def c4(config):
    presets.use_c4(config)
    model, backbone = config.model, config.model.backbone
    backbone.depth, backbone.stem_channels = 50, 32
    model.box_head.resolution, model.mask_head.resolution = 8, 4
    model.mask_head.channels, model.rpn.num_proposals = 32, 64
    model.roi.num_samples = 32  # The last stage of the ResNet takes long.
    config.detection.num_candidates = 1000


def dc5(config):
    presets.use_dc5(config)
    model = config.model
    model.backbone.depth, model.rpn.num_proposals = 50, 64
    config.detection.num_candidates = 1000


NETWORKS = {
    "plain": lambda config: None,
    "resnext": resnext,
    "convnext": convnext,
    "vitdet": vitdet,
    "C4": c4,
    "DC5": dc5,
    "cascade": cascade_of(presets.use_cascade),
    "cascade of MMDetection": cascade_of(presets.use_cascade_of_mmdetection),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", NETWORKS.values(), ids=NETWORKS)
def test_two_images_are_learnt_by_heart(change):
    config = small_config()
    change(config)
    model = MaskRCNN(config.model, config.detection, execution.choose(config.execution))
    dataset = ShapesDataset(2, 96, seed=3)
    (batch, _, _) = next(eval_batches(dataset, config.data, batch_size=2))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, 300))
    state = training.create_state(training.init_variables(model, 0), optimizer)
    step = training.compile_step(model, optimizer, config)
    for number in range(300):
        state, metrics = step(state, batch, jax.random.key(0))
        if number >= 150 and metrics["loss"] < 0.2:
            break
    assert metrics["loss"] < 0.4

    found = jax.device_get(
        jax.jit(model.apply)(state.variables, batch.images, batch.sizes, batch.canvas, 0.5)
    )
    for i in range(2):
        example = dataset[i]
        size = example.image.shape[:2]
        one = pasting.to_original(
            jax.tree.map(lambda x, i=i: x[i], found), tuple(batch.sizes[i].tolist()), size
        )
        assert len(one.labels) == len(example.classes)
        for box, label, mask in zip(example.boxes, example.classes, example.masks, strict=True):
            overlaps = oracles.iou(box, one.boxes)
            best = int(np.argmax(overlaps))
            assert overlaps[best] > 0.8 and one.labels[best] == label
            truth, pasted = rle.decode(mask, *size) > 0, np.zeros(size, bool)
            patch, (y, x) = one.patches[best]
            pasted[y : y + patch.shape[0], x : x + patch.shape[1]] = patch > 0.5
            assert (truth & pasted).sum() / (truth | pasted).sum() > 0.7
