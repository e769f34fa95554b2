"""The shapes of the variables of a model."""

import jax

from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig, ViTConfig
from maskrcnn_jax.variables import example_inputs, variable_shapes

SMALL = ModelConfig(
    backbone=ResNetConfig(depth=18, stem_channels=8), image_mean=(0.5,) * 5, image_std=(0.2,) * 5
)


def test_channels_follow_from_the_mean():
    assert example_inputs(SMALL)[0].shape == (1, 64, 64, 5)
    variables = variable_shapes(SMALL)
    assert variables["params"]["backbone"]["conv1"]["kernel"].shape == (7, 7, 5, 8)


def test_a_vit_takes_images_of_its_own_side():
    images, sizes = example_inputs(ModelConfig(backbone=ViTConfig(image_side=96)))
    assert images.shape == (1, 96, 96, 3) and sizes.tolist() == [[96, 96]]


def test_each_caller_owns_its_shapes():
    first = variable_shapes(SMALL)
    first["params"].pop("backbone")
    init = MaskRCNN(SMALL).init
    expected = jax.eval_shape(init, jax.random.key(0), *example_inputs(SMALL))
    assert variable_shapes(SMALL) == expected
