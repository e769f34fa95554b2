"""The RoI heads of each config, and their contract.

A box head has `predict`, `learn` and `pool_for_masks`, as `plain.PlainBoxHead` has. A mask head is
a module that maps pooled features and classes to mask logits, and has `predict` and `learn`, as
`plain.PlainMaskHead` has.
"""

from typing import Any

import flax.linen as nn

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.roi_heads.c4 import C4BoxHead
from maskrcnn_jax.roi_heads.cascade import CascadeBoxHead, CascadeMaskHead
from maskrcnn_jax.roi_heads.plain import PlainBoxHead, PlainMaskHead

Path = tuple[str, ...]


def module_paths(config: ModelConfig) -> dict[str, list[Path]]:
    """The paths of the modules that are a box head or a mask head, by "box_head" and "mask_head".

    There are several in a cascade, one for each stage, which all have the same layers.
    """
    cascade, found = config.cascade, {"box_head": [("box_head",)], "mask_head": [("mask_head",)]}
    if cascade is not None:
        stages = [f"stage_{i}" for i in range(cascade.num_stages)]
        found["box_head"] = [("box_head", stage) for stage in stages]
        if cascade.mask_heads == "each":
            found["mask_head"] = [("mask_head", stage) for stage in stages]
    return found


def build(config: ModelConfig, run: Execution) -> tuple[nn.Module, Any]:
    """The box head and the mask head of a config; None without a mask head."""
    boxes: nn.Module
    if config.box_head.res5:
        boxes = C4BoxHead(config, run)
    elif config.cascade is None:
        boxes = PlainBoxHead(
            config.box_head, config.num_classes, config.dtype, model=config, run=run
        )
    else:
        boxes = CascadeBoxHead(config, run)
    if config.mask_head is None:
        return boxes, None
    if config.cascade is not None and config.cascade.mask_heads == "each":
        return boxes, CascadeMaskHead(config, run)
    head = config.mask_head, config.num_classes, config.dtype, run
    return boxes, PlainMaskHead(*head, model=config)
