"""The choice between RoIAlign and RoIPool, and the rules that each is given."""

import jax.numpy as jnp
import pytest

from maskrcnn_jax import poolers
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import RoIConfig

PYRAMID = {2: jnp.zeros((8, 8, 1)), 3: jnp.zeros((4, 4, 1))}
BOXES, CANVAS = jnp.zeros((5, 4)), jnp.array([32, 32])


@pytest.fixture
def calls(monkeypatch):
    """Collects the rules that RoIAlign and RoIPool get."""
    found = {}

    def noted(name):
        def pool(pyramid, boxes, canvas, **rules):
            found[name] = rules
            return jnp.zeros((5, 7, 7, 1))

        return pool

    for name in ("multilevel_roi_align", "multilevel_roi_pool"):
        monkeypatch.setattr(poolers, name, noted(name))
    return found


def pool(config, run):
    return poolers.pool_rois(PYRAMID, BOXES, CANVAS, resolution=7, config=config, run=run)


def test_roi_align_gets_the_rules_and_the_form(calls):
    config = RoIConfig(sampling_ratio=0, aligned=True, level_rule="detectron2")
    pool(config, Execution(align_form="einsum", align_gradient="gather"))
    assert calls == {
        "multilevel_roi_align": {
            "resolution": 7,
            "sampling_ratio": 0,
            "aligned": True,
            "level_rule": "detectron2",
            "form": "einsum",
            "gradient_form": "gather",
        }
    }


def test_roi_pool_needs_all_rows(calls):
    config = RoIConfig(pooling="pool", level_rule="mmdetection")
    pool(config, Execution())
    rules = {"resolution": 7, "level_rule": "mmdetection"}
    assert calls == {"multilevel_roi_pool": rules}
    with pytest.raises(ValueError, match="set execution.space=1"):
        pool(config, Execution(row_shards=2))
