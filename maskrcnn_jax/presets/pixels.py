"""How the pixels of a network are scaled, and in which order it reads its channels."""

from maskrcnn_jax.model_config import ModelConfig, ResNetConfig, ViTConfig

# Pixels from 0 to 255 less their mean, in the order RGB: what backbones of Caffe learned with.
CAFFE_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
LARGEST_STD_OF_CAFFE = 2 / 255


def is_of_caffe(model: ModelConfig) -> bool:
    """Tells whether pixels keep their scale of 0 to 255; such networks read them as BGR."""
    return max(model.image_std) < LARGEST_STD_OF_CAFFE


def reads_bgr(model: ModelConfig) -> bool:
    """Tells whether Detectron2 and MMDetection give such a network its channels as BGR.

    They do if it came from Caffe, and for FAIR's ResNeXt-101 32x8d, which divided its pixels.
    """
    return is_of_caffe(model) or is_of_fair(model.backbone)


def is_of_fair(backbone: ResNetConfig | ViTConfig) -> bool:
    """Tells whether a backbone is the ResNeXt-101 32x8d, which FAIR released as X-101-32x8d.pkl."""
    if not isinstance(backbone, ResNetConfig):
        return False
    return (backbone.depth, backbone.groups, backbone.width_per_group) == (101, 32, 8)


def use_torchvision_input(model: ModelConfig) -> None:
    """Sets the pixel statistics and the place of the stride to those of torchvision's ResNets."""
    model.image_mean = (123.675 / 255, 116.28 / 255, 103.53 / 255)
    model.image_std = (58.395 / 255, 57.12 / 255, 57.375 / 255)
    model.backbone.stride_in_1x1 = False
