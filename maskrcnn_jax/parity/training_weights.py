"""Weights with which training can be compared to many digits: few inputs of a ReLU lie near zero.

Where two programs round differently, an input within rounding of zero passes the ReLU in one and not in the other, and
the gradient jumps. A share of one in a million such inputs per layer makes gradients differ by a thousandth, and
through the depth of a ResNet by percents, between any two programs, torchvision and itself on one thread more among
them. So each channel is moved several standard deviations away from zero, most of them up, the others down.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.data.coco import Example
from maskrcnn_jax.parity import recipe, reference, training_reference

import torch  # isort: skip  (after the reference: it loads torchvision's operators first)

DISTANCE = 4.5  # Standard deviations between the mean of a channel and zero; large pictures have more inputs near it.
SHARE_ABOVE = 0.75  # Of channels that stay positive.
BLOCK_DEVIATION = 0.3  # What a residual block adds varies less than its shortcut, lest the sum come close to zero.


def settled(
    config: ModelConfig,
    examples: Sequence[Example],
    *,
    short_side: int,
    max_long_side: int,
    seed: int = 0,
    distance: float = DISTANCE,
) -> dict[str, np.ndarray]:
    """The weights of the recipe, settled on a batch of pictures before resizing; by torchvision's names."""
    weights = recipe.state_dict(config, seed)
    model = reference.build(config, weights, short_side=short_side, max_long_side=max_long_side)
    settle(model, examples, seed=seed, distance=distance)
    return training_reference.state_dict(model)


@torch.no_grad()
def settle(model: torch.nn.Module, examples: Sequence[Example], *, seed: int = 0, distance: float = DISTANCE) -> None:
    """Scales weights and shifts biases of torchvision's model in place, by what its layers give on a batch of pictures.

    Where a layer is used several times, as in the region proposal network, its first use counts.

    Args:
        model: A backbone of bottleneck blocks.
    """
    random = np.random.default_rng(seed)
    for module in _before_a_relu(model):
        _on_first_use(module, partial(_standardise, mean=_draw_means(random, module, distance)))
    for stage in _stages(model):
        means = _draw_means(random, stage[0].downsample[1], distance)
        _on_first_use(stage[0].downsample[1], partial(_standardise, mean=means))
        for block in stage:
            # Added to the shortcut, which keeps above zero through all blocks what is there after the first.
            _on_first_use(block.bn3, partial(_standardise, mean=means.clamp(max=0), deviation=BLOCK_DEVIATION))
    for module in _outputs(model):
        _on_first_use(module, _standardise)
    model.train()
    torch.manual_seed(seed)
    model(*training_reference.inputs(examples))
    model.eval()


def _stages(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [model.backbone.body[f"layer{i}"] for i in range(1, 5)]


def _before_a_relu(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Layers with a bias that a ReLU follows, save those of a sum."""
    yield model.backbone.body["bn1"]
    for stage in _stages(model):
        for block in stage:
            yield from (block.bn1, block.bn2)
    heads = model.roi_heads
    for part in (model.rpn.head.conv, heads.box_head, heads.mask_head, heads.mask_predictor.conv5_mask):
        yield from (module for module in part.modules() if getattr(module, "bias", None) is not None)


def _outputs(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Layers that no ReLU follows, of the pyramid and the heads."""
    rpn, box, mask = model.rpn.head, model.roi_heads.box_predictor, model.roi_heads.mask_predictor
    pyramid = [block[-1] for block in model.backbone.fpn.layer_blocks]
    return [*pyramid, rpn.cls_logits, rpn.bbox_pred, box.cls_score, box.bbox_pred, mask.mask_fcn_logits]


def _draw_means(random: np.random.Generator, module: torch.nn.Module, distance: float) -> torch.Tensor:
    """Of each channel of a layer, on one side of zero or the other."""
    above = random.random(len(module.bias)) < SHARE_ABOVE
    return torch.from_numpy(np.where(above, distance, -distance).astype(np.float32))


def _on_first_use(module: torch.nn.Module, change: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]) -> None:
    """Replaces the first output of a module by ``change(module, output)``."""

    def hook(module: torch.nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return change(module, output)

    handle = module.register_forward_hook(hook)


def _standardise(
    module: torch.nn.Module, output: torch.Tensor, *, mean: torch.Tensor | float = 0.0, deviation: float = 1.0
) -> torch.Tensor:
    """Gives the outputs of a layer these means by channel, and about their means this deviation over all channels."""
    axes = [axis for axis in range(output.ndim) if axis != 1]
    variances, means = torch.var_mean(output, axes)
    scale = deviation / variances.mean().sqrt()
    module.weight *= scale
    module.bias += scale * (module.bias - means) + mean - module.bias
    shape = 1, -1, *[1] * (output.ndim - 2)
    return scale * (output - means.reshape(shape)) + (means * 0 + mean).reshape(shape)
