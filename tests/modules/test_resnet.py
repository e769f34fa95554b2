"""ResNet: published sizes, strides, frozen stages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ResNetConfig
from maskrcnn_jax.modules.resnet import DEPTHS, ResNet, channels, stage_of
from maskrcnn_jax.settings import freeze
from tests.conftest import QUICK_COMPILE
from tests.modules.helpers import filled, shaped


def resnet(depth, norm="group", stride_in_1x1=False, frozen_stages=0, dtype="float32"):
    config = ResNetConfig(
        depth=depth, norm=norm, stride_in_1x1=stride_in_1x1, frozen_stages=frozen_stages
    )
    return ResNet(freeze(config), dtype)


# Published sizes of the classifiers without their last layer. Group norm has as many parameters as
# trainable batch norm.
@pytest.mark.parametrize(
    "depth, num_parameters, expansion",
    [
        (18, 11_176_512, 1),
        (34, 21_284_672, 1),
        (50, 23_508_032, 4),
        (101, 42_500_160, 4),
        (152, 58_143_808, 4),
    ],
)
def test_sizes_of_resnets(depth, num_parameters, expansion):
    image, extent = jnp.zeros((2, 800, 1088, 3)), jnp.zeros((2, 2), jnp.int32)
    features, sizes = shaped(resnet(depth), image, extent)
    assert sizes == {"params": num_parameters}
    assert {level: x.shape for level, x in features.items()} == {
        2: (2, 200, 272, 64 * expansion),
        3: (2, 100, 136, 128 * expansion),
        4: (2, 50, 68, 256 * expansion),
        5: (2, 25, 34, 512 * expansion),
    }


# Published sizes of the classifiers of torchvision, less their last layer.
@pytest.mark.parametrize(
    "depth, groups, width, num_parameters",
    [
        (50, 32, 4, 22_979_904),
        (101, 32, 8, 86_742_336),
        (101, 64, 4, 81_406_272),
    ],
)
def test_sizes_of_resnexts(depth, groups, width, num_parameters):
    config = ResNetConfig(depth=depth, norm="group", groups=groups, width_per_group=width)
    image, extent = jnp.zeros((1, 64, 96, 3)), jnp.zeros((1, 2), jnp.int32)
    features, sizes = shaped(ResNet(freeze(config)), image, extent)
    assert sizes == {"params": num_parameters}
    assert {level: x.shape[-1] for level, x in features.items()} == channels(config)
    assert channels(config) == {2: 256, 3: 512, 4: 1024, 5: 2048}


def test_a_dilated_c5_is_level_4_in_the_place_of_c4():
    config = ResNetConfig(depth=50, norm="group", c5_dilation=2)
    image, extent = jnp.zeros((1, 64, 96, 3)), jnp.zeros((1, 2), jnp.int32)
    features, sizes = shaped(ResNet(freeze(config)), image, extent)
    assert sizes == {"params": 23_508_032} and list(features) == [2, 3, 4]
    assert features[4].shape == (1, 4, 6, 2048) and channels(config) == {2: 256, 3: 512, 4: 2048}


def test_stride_moves_to_the_first_convolution():
    """Parameters and shapes stay; the 3x3 convolution of a first block works at half the size."""
    image, extent = jnp.zeros((1, 64, 96, 3)), jnp.zeros((1, 2), jnp.int32)
    in_3x3, in_1x1 = (
        shaped(resnet(50, stride_in_1x1=flag), image, extent) for flag in (False, True)
    )
    assert in_3x3 == in_1x1

    def after_first(flag):
        module = resnet(50, "frozen_batch", flag)
        variables = jax.eval_shape(module.init, jax.random.key(0), image, extent)
        apply = partial(module.apply, capture_intermediates=True)
        _, found = jax.eval_shape(apply, variables, image, extent)
        found = found["intermediates"]
        return {
            stage: found[f"layer{stage}_0"]["conv1"]["__call__"][0].shape[1:3]
            for stage in (1, 2, 3, 4)
        }

    assert after_first(False) == {1: (16, 24), 2: (16, 24), 3: (8, 12), 4: (4, 6)}
    assert after_first(True) == {1: (16, 24), 2: (8, 12), 3: (4, 6), 4: (2, 3)}


def test_frozen_batch_norm_leaves_convolutions_only_as_parameters():
    _, sizes = shaped(
        resnet(50, "frozen_batch"), jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 2), jnp.int32)
    )
    assert sizes == {"params": 23_508_032 - 53_120, "constants": 2 * 53_120}


def test_rematerialised_blocks_give_the_same(monkeypatch):
    monkeypatch.setitem(DEPTHS, 50, ((1, 2, 1, 1), True))
    rng = np.random.default_rng(9)
    images = rng.normal(size=(1, 32, 64, 3)).astype("f")
    canvas = jnp.array([[32, 64]])
    config = freeze(ResNetConfig(stem_channels=32, norm="group", frozen_stages=0))
    kept = ResNet(config)
    variables = filled(kept, images, canvas, scale=0.3)

    def results(module):
        def total(variables, images):
            maps = module.apply(variables, images, canvas)
            return sum(jnp.sin(x).sum() for x in maps.values()), maps

        gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
        (_, maps), gradients = jax.jit(gradient, compiler_options=QUICK_COMPILE)(variables, images)
        return jax.tree.leaves((maps, gradients))

    whole = results(kept)
    for recompute in ("blocks", "strided"):
        again = results(ResNet(config, run=Execution(recompute=(recompute,))))
        for x, expected in zip(again, whole, strict=True):
            np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize(
    "layer, stage",
    [("conv1", 1), ("bn1", 1), ("layer1_0", 2), ("layer4_2", 5), ("layer3_22", 4)],
)
def test_stages_of_layers(layer, stage):
    assert stage_of(layer) == stage
