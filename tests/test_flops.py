"""The count of operations, by hand, by the published figures of backbones, and by XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from maskrcnn_jax import flops
from maskrcnn_jax.config import Config, ModelConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.modules import winograd

BUCKET = 512, 640


def small(**fields):
    config = ModelConfig(num_classes=5, stem_channels=32, fpn_channels=64, box_head_features=128, **fields)
    config.mask_head_channels, config.roi.num_samples, config.roi.max_mask_samples = 48, 20, 3
    return config


CONFIGS = {
    "basic blocks": small(depth=18, mask_head_convs=0, frozen_stages=0),
    "bottlenecks": small(depth=50, rpn_head_convs=2, box_head_convs=2, box_head_layers=1, frozen_stages=3),
    "frozen": small(depth=18, frozen_stages=5, stride_in_1x1=True),
}


def network(model, image, boxes, masks):
    """All layers with parameters on one image, without the stages between them."""
    sizes = jnp.full((1, 2), 64)
    pyramid = model.features(image, sizes, sizes)
    extents = {level: sizes for level in pyramid}
    classes = jnp.zeros(masks.shape[:2], jnp.int32)
    return model.rpn_head(pyramid, extents), model.box_head(boxes), model.mask_head(masks, classes)


def by_xla(config):
    """Operations of a forward pass, and of one with its backward pass, as XLA counts them before it optimises."""
    model, shape = MaskRCNN(config), jax.ShapeDtypeStruct
    key, image, size = jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64)
    variables = jax.eval_shape(model.init, key, image, size)
    boxes, masks = (
        shape((1, count, side, side, config.fpn_channels), jnp.float32)
        for count, side in ((config.roi.num_samples, 7), (config.roi.max_mask_samples, 14))
    )
    constants = variables.get("constants", {})
    arguments = variables["params"], constants, shape((1, *BUCKET, 3), jnp.float32), boxes, masks

    def forward(params, constants, *inputs):
        outputs = model.apply({"params": params, "constants": constants}, *inputs, method=network)
        return sum(x.sum() for x in jax.tree.leaves(outputs))

    backward = jax.value_and_grad(forward, argnums=(0, 3, 4))
    return [jax.jit(function).lower(*arguments).cost_analysis()["flops"] for function in (forward, backward)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_step_costs_what_xla_counts(config, monkeypatch):
    # XLA would count the form for CPUs beside the form for all others.
    monkeypatch.setattr(winograd, "pays_off", lambda *shapes: False)
    # XLA counts norms and activations too, but no products with padding.
    assert flops.total(config, BUCKET) == pytest.approx(by_xla(config), rel=0.03)


@pytest.mark.parametrize("depth, published", [(18, 1.81), (50, 4.09), (101, 7.80)])
def test_backbones_cost_what_torchvision_publishes(depth, published):
    counted = flops.count(ModelConfig(depth=depth), (224, 224))["backbone"].forward
    # In products, 10^9 of them, with the classifier.
    classifier = 1000 * (512 if depth == 18 else 2048)
    assert counted / 2 + classifier == pytest.approx(published * 1e9, rel=0.005)


def test_heads_by_hand():
    counted = flops.count(Config().model, (64, 96))
    cells = 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    rpn_head = 2 * cells * (9 * 256 * 256 + 256 * 3 + 256 * 12)
    box_head = 2 * 512 * (49 * 256 * 1024 + 1024 * 1024 + 1024 * 81 * 5)
    mask_head = 2 * 128 * (196 * 4 * 9 * 256 * 256 + 784 * 256 * 256 + 784 * 256)
    for part, forward in {"rpn_head": rpn_head, "box_head": box_head, "mask_head": mask_head}.items():
        assert counted[part] == (forward, 3 * forward)


def test_what_is_frozen_costs_no_backward_pass():
    trained, frozen = (flops.count(ModelConfig(frozen_stages=stages), (800, 1344))["backbone"] for stages in (0, 5))
    assert trained.forward == frozen.forward == frozen.training
    stem = 2 * 400 * 672 * 7 * 7 * 3 * 64
    assert trained.training == 3 * trained.forward - stem  # No gradient by the image.


def test_a_step_of_r50_fpn():
    assert flops.total(Config().model, (800, 1344)).training == pytest.approx(1.564e12, rel=1e-3)
