"""The box head of C4 networks, which the mask head reads from too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.roi_heads import composition
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.structures import Proposals, RoITargets
from tests.conftest import QUICK_COMPILE
from tests.test_model import make_batch


def test_masks_of_a_c4_network_learn_from_the_features_of_the_first_rois():
    config = presets.detectron2_r50_c4(num_classes=4).model
    config.backbone.stem_channels, config.box_head.resolution = 4, 6
    config.mask_head.resolution = 3
    config = freeze(config)
    head, _ = composition.build(config, Execution())
    rng = np.random.default_rng(0)
    features = jnp.array(rng.normal(size=(1, 8, 6, 6, 64)).astype(np.float32))

    def pool(boxes, resolution):
        assert resolution == 6
        return features[:, : boxes.shape[1]]

    boxes = jnp.array(rng.uniform(0, 9, (1, 8, 4)).astype(np.float32))
    given, size = Proposals(boxes, jnp.ones((1, 8), bool)), jnp.ones((1, 2), int)
    none = jnp.zeros((1, 8), int)
    rois = RoITargets(boxes, none, jnp.zeros((1, 8, 4)), none, none > 0, none == 0)
    keys, batch = jax.random.split(jax.random.key(0), 1), make_batch()

    @partial(jax.jit, compiler_options=QUICK_COMPILE)
    def pooled():
        """Features for masks as detection pools them, and as training takes the first three."""
        variables = head.init(jax.random.key(0), pool, given, size, method="predict")
        whole = head.bind(variables).pool_for_masks(pool)(boxes, resolution=3)
        *_, stages, taken = head.bind(variables).learn(pool, rois, batch, keys)
        assert len(stages) == 1
        return whole, taken(boxes[:, :3], resolution=3)

    whole, taken = pooled()
    assert whole.shape == (1, 8, 3, 3, 128) and whole.max() > 0
    np.testing.assert_allclose(taken, whole[:, :3], atol=1e-5)
