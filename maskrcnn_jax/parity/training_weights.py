"""Weights for precise comparisons of gradients: no input of a ReLU lies near zero.

If two programs round differently, an input within rounding of zero can pass the ReLU in one program
only, and the gradient jumps. If one input in a million does so in each layer, gradients differ by a
thousandth, and after the depth of a ResNet by percents. This holds for any two programs, even for
torchvision on one thread and on two. So these weights shift each channel away from zero: most
channels up, the others down.

In the heads the shift is large. In the backbone a large shift would leave nothing to compare: if
all positions of a channel pass the ReLU, the norm after the next convolution cancels the shift, and
the gradient of the shift is only rounding. In the backbone therefore a few positions of each
channel stay on the other side of zero, and zero lies in a gap between the values.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from maskrcnn_jax.config import Config
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.parity import recipe, reference, training_reference

import torch  # isort: skip  (after the reference: it loads torchvision's operators first)

DISTANCE = 6.0  # In the heads: distance of a channel's mean from zero, in standard deviations.
SHARE_ABOVE = 0.75  # The share of channels that are shifted up.
TAIL = 8  # In the backbone: at most so many positions of a channel in all images lie across zero.
# The deviation of a residual branch. It is below the shortcut's, so that the sum keeps its sign.
BLOCK_DEVIATION = 0.3

Tensors = list[torch.Tensor]


def settled(
    config: ModelConfig,
    batches: Sequence[Sequence[Example]],
    *,
    short_side: int,
    max_long_side: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The weights of the recipe after `settle` on batches of images before resizing.

    Returns:
        A state dict by torchvision's names.
    """
    weights = recipe.state_dict(config, seed)
    sides = {"short_side": short_side, "max_long_side": max_long_side}
    model = reference.build(Config(model=config), weights, **sides)
    settle(model, batches, seed=seed)
    return training_reference.state_dict(model)


@torch.no_grad()
def settle(model: torch.nn.Module, batches: Sequence[Sequence[Example]], *, seed: int = 0) -> None:
    """Rescales and shifts the layers of torchvision's model in place, by their outputs.

    The backbone is settled on all batches, with separate batch statistics; the other layers are
    settled on the first batch. If a layer runs several times, as in the RPN, its first run counts.

    Args:
        model: A detector whose backbone has bottleneck blocks.
    """
    random = np.random.default_rng(seed)
    model.train()
    images = [_preprocess(model, batch) for batch in batches]
    _settle_backbone(model.backbone.body, images, random)
    for module in _before_a_relu(model):
        means = DISTANCE * _draw_sides(random, module)
        _on_first_use(module, partial(_move_away, means=means))
    for module in _outputs(model):
        _on_first_use(module, lambda module, output: _standardise(module, [output])[0])
    torch.manual_seed(seed)
    model(*training_reference.inputs(batches[0]))
    model.eval()


def _preprocess(model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
    return model.transform(*training_reference.inputs(examples))[0].tensors


def _settle_backbone(body: torch.nn.Module, images: Tensors, random: np.random.Generator) -> None:
    """Settles a ResNet layer by layer, from the stem on."""
    sides = _draw_sides(random, body.bn1)
    features = _into_a_gap(body.bn1, [body.conv1(x) for x in images], sides)
    features = [body.maxpool(x) for x in features]
    for stage in (body[f"layer{i}"] for i in range(1, 5)):
        # Through shortcuts, a channel has the same sign in all blocks of a stage.
        sides = _draw_sides(random, stage[0].bn3)
        for block in stage:
            features = _settle_block(block, features, sides, random)


def _settle_block(
    block: torch.nn.Module, inputs: Tensors, sides: torch.Tensor, random: np.random.Generator
) -> Tensors:
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
    """Shifts a norm so that few positions of a channel lie across zero, and none near zero.

    Returns:
        The outputs of the ReLU after the norm, or after the sum with the shortcuts if given.
    """
    outputs = [norm(x) for x in inputs]
    if shortcuts is None:
        sums = _standardise(norm, outputs)
    else:
        added = _standardise(norm, outputs, deviation=BLOCK_DEVIATION)
        sums = [x + shortcut for x, shortcut in zip(added, shortcuts, strict=True)]
    signed = [_by_channel(x) * sides[:, None] for x in sums]
    tails = [x.topk(TAIL + 1, largest=False).values for x in signed]
    tail = torch.cat(tails, 1).sort(1).values[:, : TAIL + 1]
    below = tail.diff(dim=1).argmax(1, keepdim=True)  # The widest gap follows this position.
    shift = -sides * (tail.gather(1, below) + tail.gather(1, below + 1))[:, 0] / 2
    norm.bias += shift
    return [(x + shift.reshape(1, -1, 1, 1)).relu() for x in sums]


def _before_a_relu(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Layers of the heads that have a bias and precede a ReLU."""
    heads = model.roi_heads
    parts = [model.rpn.head.conv, heads.box_head]
    if heads.has_mask():
        parts += [heads.mask_head, heads.mask_predictor.conv5_mask]
    for part in parts:
        yield from (x for x in part.modules() if getattr(x, "bias", None) is not None)


def _outputs(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Layers of the pyramid and the heads that precede no ReLU."""
    rpn, heads = model.rpn.head, model.roi_heads
    pyramid = [block[-1] for block in model.backbone.fpn.layer_blocks]
    box = [heads.box_predictor.cls_score, heads.box_predictor.bbox_pred]
    mask = [heads.mask_predictor.mask_fcn_logits] if heads.has_mask() else []
    return [*pyramid, rpn.cls_logits, rpn.bbox_pred, *box, *mask]


def _draw_sides(random: np.random.Generator, module: torch.nn.Module) -> torch.Tensor:
    """Draws the sign of each channel of a layer: 1 or -1."""
    is_above = random.random(len(module.bias)) < SHARE_ABOVE
    return torch.from_numpy(np.where(is_above, 1, -1).astype(np.float32))


def _on_first_use(
    module: torch.nn.Module, change: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
) -> None:
    """Replaces the first output of a module with ``change(module, output)``."""

    def hook(
        module: torch.nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        handle.remove()
        return change(module, output)

    handle = module.register_forward_hook(hook)


def _move_away(
    module: torch.nn.Module, output: torch.Tensor, *, means: torch.Tensor
) -> torch.Tensor:
    """Rescales and shifts a layer: channels get these means, and a deviation of 1 around them."""
    (output,) = _standardise(module, [output])
    module.bias += means
    return output + means.reshape(1, -1, *[1] * (output.ndim - 2))


def _standardise(module: torch.nn.Module, outputs: Tensors, *, deviation: float = 1.0) -> Tensors:
    """Rescales and shifts a layer: each channel gets mean 0, all together get this deviation."""
    positions = torch.cat([_by_channel(x) for x in outputs], 1)
    variances, means = torch.var_mean(positions, 1)
    scale = deviation / variances.mean().sqrt()
    module.weight *= scale
    module.bias += scale * (module.bias - means) - module.bias
    return [scale * (x - means.reshape(1, -1, *[1] * (x.ndim - 2))) for x in outputs]


def _by_channel(x: torch.Tensor) -> torch.Tensor:
    """Flattens to ``[channels, positions]``."""
    return x.transpose(0, 1).flatten(1)
