"""ConvNeXt: published sizes, extents, stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.model_config import ConvNeXtConfig
from maskrcnn_jax.modules import backbones
from maskrcnn_jax.modules.convnext import ConvNeXt
from maskrcnn_jax.settings import freeze
from tests.conftest import QUICK_COMPILE
from tests.modules.helpers import filled, shaped

SMALL, BASE = (3, 3, 27, 3), 128


# Published sizes of torchvision's classifiers, less their last norm and layer.
@pytest.mark.parametrize(
    "depths, width, num_parameters",
    [((3, 3, 9, 3), 96, 27_818_592), (SMALL, 96, 49_453_152), (SMALL, BASE, 87_564_416)],
)
def test_sizes_of_convnexts(depths, width, num_parameters):
    config = freeze(ConvNeXtConfig(depths=depths, width=width))
    features, sizes = shaped(
        ConvNeXt(config), jnp.zeros((2, 64, 96, 3)), jnp.zeros((2, 2), jnp.int32)
    )
    assert sizes == {"params": num_parameters}
    assert {level: x.shape for level, x in features.items()} == {
        2: (2, 16, 24, width),
        3: (2, 8, 12, 2 * width),
        4: (2, 4, 6, 4 * width),
        5: (2, 2, 3, 8 * width),
    }
    assert backbones.channels(config) == {level: x.shape[-1] for level, x in features.items()}


def test_an_image_gives_the_same_in_any_bucket():
    config = freeze(ConvNeXtConfig(depths=(1, 1, 1, 1), width=4))
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype("f")
    module, canvas = ConvNeXt(config), jnp.array([[32, 64]])
    variables = filled(module, images, canvas, scale=0.3)
    apply = jax.jit(module.apply, compiler_options=QUICK_COMPILE)
    inside, alone = apply(variables, images, canvas), apply(variables, images[:, :32, :64], canvas)
    for level, x in alone.items():
        rows, columns = x.shape[1:3]
        np.testing.assert_allclose(inside[level][:, :rows, :columns], x, rtol=1e-4, atol=1e-5)


def test_stages_of_layers():
    stages = {
        "stem_conv": 1,
        "stem_norm": 1,
        "stage2_0": 2,
        "downsample3_conv": 3,
        "stage5_2": 5,
    }
    frozen = freeze(ConvNeXtConfig(frozen_stages=2))
    for layer, stage in stages.items():
        assert backbones.layers_above(frozen, layer) == 6 - stage
        assert backbones.is_frozen(frozen, layer) == (stage <= 2)
