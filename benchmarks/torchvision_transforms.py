"""Transforms of torchvision's training script, references/detection, written out with torch.

Their random numbers are arguments, so that they can be given those of other libraries. An image is
uint8 or float32 (c, h, w). A target has "boxes" (n, 4), "labels" (n,) and uint8 "masks" (n, h, w).
"""

import maskrcnn_jax.parity.reference  # noqa: F401  (It loads the operators of torchvision.)

# isort: split
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

Target = dict[str, torch.Tensor]
FILL = (123.0, 117.0, 104.0)  # Of the preset "lsj".


def shortest_size(
    image: torch.Tensor, target: Target, short_side: int, max_long_side: int
) -> tuple[torch.Tensor, Target]:
    """``RandomShortestSize``: resizes an image to a short side, unless it gets too long."""
    height, width = image.shape[-2:]
    ratio = min(short_side / min(height, width), max_long_side / max(height, width))
    return _resize(image, target, ratio)


def scale_jitter(
    image: torch.Tensor, target: Target, factor: float, side: int
) -> tuple[torch.Tensor, Target]:
    """``ScaleJitter``: resizes an image to ``factor`` times the size that fits into a square."""
    height, width = image.shape[-2:]
    return _resize(image, target, min(side / height, side / width) * factor)


def _resize(image: torch.Tensor, target: Target, ratio: float) -> tuple[torch.Tensor, Target]:
    height, width = image.shape[-2:]
    size = [int(height * ratio), int(width * ratio)]
    image = transforms.resize(image, size, antialias=True)
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    masks = transforms.resize(target["masks"], size, InterpolationMode.NEAREST)
    return image, target | {"boxes": target["boxes"] * scale, "masks": masks}


def crop(
    image: torch.Tensor, target: Target, top: int, left: int, height: int, width: int
) -> tuple[torch.Tensor, Target]:
    """Crops to a window, and drops the objects whose boxes lie outside."""
    boxes = target["boxes"] - torch.tensor([left, top, left, top])
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    kept = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    masks = transforms.crop(target["masks"][kept], top, left, height, width)
    target = {"boxes": boxes[kept], "labels": target["labels"][kept], "masks": masks}
    return transforms.crop(image, top, left, height, width), target


def horizontal_flip(image: torch.Tensor, target: Target) -> tuple[torch.Tensor, Target]:
    """``RandomHorizontalFlip`` where it flips."""
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
    target = target | {"boxes": boxes, "masks": target["masks"].flip(-1)}
    return transforms.horizontal_flip(image), target


def distort(
    image: torch.Tensor, brightness: float, contrast: float, saturation: float, hue: float
) -> torch.Tensor:
    """``RandomPhotometricDistort`` where it makes all four changes, contrast before saturation."""
    image = transforms.adjust_brightness(image, brightness)
    image = transforms.adjust_contrast(image, contrast)
    image = transforms.adjust_saturation(image, saturation)
    return transforms.adjust_hue(image, hue)


def fixed_size_crop(
    image: torch.Tensor, target: Target, place: float, side: int, fill: tuple[float, ...] = FILL
) -> tuple[torch.Tensor, Target]:
    """``FixedSizeCrop``: crops a random part of a square's size, and fills up the square."""
    height, width = image.shape[-2:]
    new_height, new_width = min(height, side), min(width, side)
    if (new_height, new_width) != (height, width):
        top, left = (int(max(length - side, 0) * place) for length in (height, width))
        image, target = crop(image, target, top, left, new_height, new_width)
    padding = [0, 0, side - new_width, side - new_height]
    if any(padding):
        image = transforms.pad(image, padding, list(fill))
        target = target | {"masks": transforms.pad(target["masks"], padding, 0)}
    return image, target


def simple_copy_paste(
    image: torch.Tensor,
    target: Target,
    other: torch.Tensor,
    other_target: Target,
    chosen: torch.Tensor,
) -> tuple[torch.Tensor, Target]:
    """``SimpleCopyPaste`` without blending, of two images of one size."""
    if len(other_target["masks"]) == 0:
        return image, target
    pasted = {name: values[chosen] for name, values in other_target.items()}
    covered = pasted["masks"].sum(dim=0) > 0
    image = image * ~covered + other * covered
    masks = target["masks"] * ~covered
    kept = masks.sum((-1, -2)) > 0
    masks = masks[kept]
    boxes = torch.cat([boxes_of(masks), pasted["boxes"]])
    out = {
        "boxes": boxes,
        "labels": torch.cat([target["labels"][kept], pasted["labels"]]),
        "masks": torch.cat([masks, pasted["masks"]]),
    }
    valid = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return image, {name: values[valid] for name, values in out.items()}


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """``masks_to_boxes``: its far sides are those of the last pixel, not behind it."""
    boxes = torch.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        y, x = torch.where(mask != 0)
        box[:] = torch.stack([x.min(), y.min(), x.max(), y.max()])
    return boxes
