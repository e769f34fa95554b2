"""What the network costs by its own arithmetic: the operations of its convolutions and matrix products.

A multiplication and an addition are two operations. Only layers with parameters count, which is nearly everything the
network computes; RoIAlign, norms, losses and non-maximum suppression do not. So the count is the same on every machine,
and divided by the time of a step it says which share of a chip's arithmetic does useful work.
"""

from typing import NamedTuple

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.modules.resnet import DEPTHS
from maskrcnn_jax.targets import max_positives


class Layer(NamedTuple):
    """A convolution or matrix product, over one image."""

    part: str  # Of the network: "backbone", "fpn", "rpn_head", "box_head" or "mask_head".
    products: int  # Multiplications of the forward pass, each with an addition.
    gradients: int = 2  # Of its weights and of its input; fewer where no gradient is needed.


class Flops(NamedTuple):
    """Floating-point operations on one image."""

    forward: int
    training: int  # Forward and backward pass together.


def count(config: ModelConfig, bucket: tuple[int, int]) -> dict[str, Flops]:
    """Operations of each part of the network in one training step, per image of a bucket (height, width).

    The backward pass computes the gradient of every trained weight, and of every activation on the way to one, each as
    costly as the forward pass of the layer. Recomputing activations is not counted, and the
    gradient of the RPN counts in whole, though on CPUs the zeros of anchors that were not sampled are not computed.
    """
    layers = [*_backbone(config, bucket), *_fpn(config, bucket), *_rpn_head(config, bucket), *_roi_heads(config)]
    parts = {}
    for layer in layers:
        forward, training = parts.get(layer.part, Flops(0, 0))
        cost = 2 * layer.products
        parts[layer.part] = Flops(forward + cost, training + cost * (1 + layer.gradients))
    return parts


def total(config: ModelConfig, bucket: tuple[int, int]) -> Flops:
    """Operations of the whole network in one training step, per image of a bucket (height, width)."""
    return Flops(*map(sum, zip(*count(config, bucket).values(), strict=True)))


def _cells(bucket: tuple[int, int], level: int) -> int:
    height, width = bucket
    return -(-height // 2**level) * -(-width // 2**level)


def _backbone(config: ModelConfig, bucket: tuple[int, int]) -> list[Layer]:
    frozen, stem = config.frozen_stages, config.stem_channels
    sizes, bottleneck = DEPTHS[config.depth]
    # No gradient by the image is needed, nor by what leaves the last frozen stage.
    layers = [Layer("backbone", _cells(bucket, 1) * 49 * 3 * stem, 1 if frozen == 0 else 0)]
    channels = stem
    for stage, num_blocks in enumerate(sizes, start=1):
        for i in range(num_blocks):
            width = stem * 2 ** (stage - 1)
            outer = _cells(bucket, stage + 1)
            inner = _cells(bucket, stage) if stage > 1 and i == 0 else outer
            first = 0 if stage < frozen else 1 if stage == frozen and i == 0 else 2
            trained = 0 if stage < frozen else 2
            if bottleneck:
                middle = outer if config.stride_in_1x1 else inner
                products = [middle * channels * width, outer * 9 * width**2, outer * 4 * width**2]
                out = 4 * width
            else:
                products = [outer * 9 * channels * width, outer * 9 * width**2]
                out = width
            layers.append(Layer("backbone", products[0], first))
            layers += [Layer("backbone", n, trained) for n in products[1:]]
            if channels != out or inner != outer:
                layers.append(Layer("backbone", outer * channels * out, first))
            channels = out
    return layers


def _fpn(config: ModelConfig, bucket: tuple[int, int]) -> list[Layer]:
    layers, features = [], config.fpn_channels
    expansion = 4 if DEPTHS[config.depth][1] else 1
    for level in range(2, 6):
        channels = config.stem_channels * 2 ** (level - 2) * expansion
        lateral = _cells(bucket, level) * channels * features
        layers.append(Layer("fpn", lateral, 1 if level <= config.frozen_stages else 2))
        layers.append(Layer("fpn", _cells(bucket, level) * 9 * features**2))
    return layers


def _rpn_head(config: ModelConfig, bucket: tuple[int, int]) -> list[Layer]:
    features, anchors = config.fpn_channels, len(config.rpn.aspect_ratios)
    per_cell = config.rpn_head_convs * 9 * features**2 + features * 5 * anchors
    return [Layer("rpn_head", _cells(bucket, level) * per_cell) for level in range(2, 7)]


def _roi_heads(config: ModelConfig) -> list[Layer]:
    """The box head on all sampled RoIs, the mask head on as many as may be positive, for one class each."""
    roi, classes = config.roi, config.num_classes
    area, hidden = roi.box_resolution**2, config.box_head_features
    convs, channels = _head_convs(config.fpn_channels, config.box_head_convs, config.box_head_channels)
    widths = [area * channels] + [hidden] * config.box_head_layers
    linear = sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True)) + widths[-1] * 5 * classes
    box = Layer("box_head", roi.num_samples * (area * convs + linear))

    convs, channels = _head_convs(config.fpn_channels, config.mask_head_convs, config.mask_head_channels)
    outer = 4 * config.mask_head_channels * (channels + 1)  # Four cells for each: deconvolution, then the class.
    samples = min(max_positives(roi), roi.max_mask_samples or roi.num_samples)
    return [box, Layer("mask_head", samples * roi.mask_resolution**2 * (convs + outer))]


def _head_convs(channels: int, num_convs: int, features: int) -> tuple[int, int]:
    """Products per cell of the 3x3 convolutions of a head, and the channels that leave them."""
    if num_convs == 0:
        return 0, channels
    return 9 * features * (channels + (num_convs - 1) * features), features
