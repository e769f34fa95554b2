"""Weights with which training can be compared to many digits: no input of a ReLU lies near zero.

Where two programs round differently, an input within rounding of zero passes the ReLU in one and not in the other, and
the gradient jumps. A share of one in a million such inputs per layer makes gradients differ by a thousandth, and
through the depth of a ResNet by percents, between any two programs, torchvision and itself on one thread more among
them. So each channel is moved away from zero, most of them up, the others down.

In the heads they are moved far away. In the backbone that would leave nothing to compare: where all positions pass, the
norm behind the next convolution takes the shift of a channel out again, and what is left of the shift's gradient is
rounding. There a few positions of each channel stay on the other side, and zero lies in a gap between them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.data.coco import Example
from maskrcnn_jax.parity import recipe, reference, training_reference

import torch  # isort: skip  (after the reference: it loads torchvision's operators first)

DISTANCE = 6.0  # Standard deviations between the mean of a channel and zero, in the heads.
SHARE_ABOVE = 0.75  # Of channels that stay positive, but for the few positions of the tail.
TAIL = 8  # Positions of a channel of the backbone, of all pictures, that may lie on the other side of zero.
BLOCK_DEVIATION = 0.3  # What a residual block adds varies less than its shortcut, lest the sum forget its side of zero.

Tensors = list[torch.Tensor]


def settled(
    config: ModelConfig,
    batches: Sequence[Sequence[Example]],
    *,
    short_side: int,
    max_long_side: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The weights of the recipe, settled on batches of pictures before resizing; by torchvision's names."""
    weights = recipe.state_dict(config, seed)
    model = reference.build(config, weights, short_side=short_side, max_long_side=max_long_side)
    settle(model, batches, seed=seed)
    return training_reference.state_dict(model)


@torch.no_grad()
def settle(model: torch.nn.Module, batches: Sequence[Sequence[Example]], *, seed: int = 0) -> None:
    """Scales weights and shifts biases of torchvision's model in place, by what its layers give on batches of pictures.

    The backbone is settled on all batches, each normalised by itself, the rest on the first one. Where a layer is used
    several times, as in the region proposal network, its first use counts.

    Args:
        model: A backbone of bottleneck blocks.
    """
    random = np.random.default_rng(seed)
    model.train()
    _settle_backbone(model.backbone.body, [_preprocess(model, batch) for batch in batches], random)
    for module in _before_a_relu(model):
        _on_first_use(module, partial(_move_away, means=DISTANCE * _draw_sides(random, module)))
    for module in _outputs(model):
        _on_first_use(module, lambda module, output: _standardise(module, [output])[0])
    torch.manual_seed(seed)
    model(*training_reference.inputs(batches[0]))
    model.eval()


def _preprocess(model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
    return model.transform(*training_reference.inputs(examples))[0].tensors


def _settle_backbone(body: torch.nn.Module, pictures: Tensors, random: np.random.Generator) -> None:
    """Walks through a ResNet with all batches side by side, each layer settled before the next one sees its output."""
    sides = _draw_sides(random, body.bn1)
    features = [body.maxpool(x) for x in _into_a_gap(body.bn1, [body.conv1(x) for x in pictures], sides)]
    for stage in (body[f"layer{i}"] for i in range(1, 5)):
        sides = _draw_sides(random, stage[0].bn3)  # Shortcuts keep a channel where it is through all blocks.
        for block in stage:
            features = _settle_block(block, features, sides, random)


def _settle_block(block: torch.nn.Module, inputs: Tensors, sides: torch.Tensor, random: np.random.Generator) -> Tensors:
    """Settles a bottleneck block; returns its outputs."""
    x = _into_a_gap(block.bn1, [block.conv1(x) for x in inputs], _draw_sides(random, block.bn1))
    x = _into_a_gap(block.bn2, [block.conv2(x) for x in x], _draw_sides(random, block.bn2))
    shortcuts = inputs
    if block.downsample is not None:
        conv, norm = block.downsample
        shortcuts = _standardise(norm, [norm(conv(x)) for x in inputs])
    return _into_a_gap(block.bn3, [block.conv3(x) for x in x], sides, shortcuts)


def _into_a_gap(
    norm: torch.nn.Module, inputs: Tensors, sides: torch.Tensor, shortcuts: Tensors | None = None
) -> Tensors:
    """Shifts a norm so that few positions of a channel lie across zero and none lies near it; what its ReLU returns."""
    outputs = [norm(x) for x in inputs]
    if shortcuts is None:
        sums = _standardise(norm, outputs)
    else:
        added = _standardise(norm, outputs, deviation=BLOCK_DEVIATION)
        sums = [x + shortcut for x, shortcut in zip(added, shortcuts, strict=True)]
    tails = [(_by_channel(x) * sides[:, None]).topk(TAIL + 1, largest=False).values for x in sums]
    tail = torch.cat(tails, 1).sort(1).values[:, : TAIL + 1]
    below = tail.diff(dim=1).argmax(1, keepdim=True)  # The widest gap lies behind it.
    shift = -sides * (tail.gather(1, below) + tail.gather(1, below + 1))[:, 0] / 2
    norm.bias += shift
    return [(x + shift.reshape(1, -1, 1, 1)).relu() for x in sums]


def _before_a_relu(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Layers of the heads with a bias that a ReLU follows."""
    heads = model.roi_heads
    for part in (model.rpn.head.conv, heads.box_head, heads.mask_head, heads.mask_predictor.conv5_mask):
        yield from (module for module in part.modules() if getattr(module, "bias", None) is not None)


def _outputs(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Layers that no ReLU follows, of the pyramid and the heads."""
    rpn, box, mask = model.rpn.head, model.roi_heads.box_predictor, model.roi_heads.mask_predictor
    pyramid = [block[-1] for block in model.backbone.fpn.layer_blocks]
    return [*pyramid, rpn.cls_logits, rpn.bbox_pred, box.cls_score, box.bbox_pred, mask.mask_fcn_logits]


def _draw_sides(random: np.random.Generator, module: torch.nn.Module) -> torch.Tensor:
    """Of each channel of a layer, 1 above zero or -1 below."""
    return torch.from_numpy(np.where(random.random(len(module.bias)) < SHARE_ABOVE, 1, -1).astype(np.float32))


def _on_first_use(module: torch.nn.Module, change: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]) -> None:
    """Replaces the first output of a module by ``change(module, output)``."""

    def hook(module: torch.nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return change(module, output)

    handle = module.register_forward_hook(hook)


def _move_away(module: torch.nn.Module, output: torch.Tensor, *, means: torch.Tensor) -> torch.Tensor:
    """Gives the outputs of a layer these means by channel, and about them a deviation of one over all channels."""
    (output,) = _standardise(module, [output])
    module.bias += means
    return output + means.reshape(1, -1, *[1] * (output.ndim - 2))


def _standardise(module: torch.nn.Module, outputs: Tensors, *, deviation: float = 1.0) -> Tensors:
    """Scales and shifts a layer: the outputs of each channel have no mean, and those of all channels this deviation."""
    variances, means = torch.var_mean(torch.cat([_by_channel(x) for x in outputs], 1), 1)
    scale = deviation / variances.mean().sqrt()
    module.weight *= scale
    module.bias += scale * (module.bias - means) - module.bias
    return [scale * (x - means.reshape(1, -1, *[1] * (x.ndim - 2))) for x in outputs]


def _by_channel(x: torch.Tensor) -> torch.Tensor:
    """Channels by all positions."""
    return x.transpose(0, 1).flatten(1)
