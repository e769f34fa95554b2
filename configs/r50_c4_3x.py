"""Mask R-CNN R50-C4 on COCO, 3x schedule, by the rules of Detectron2: no feature pyramid.

    python train.py --config=configs/r50_c4_3x.py --workdir=runs/c4_3x

The backbone starts from torchvision's ImageNet weights, which a run downloads once.

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 39.8 and mask AP 34.4 for this schedule, with another backbone.
"""

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = presets.detectron2_r50_c4()
    presets.use_torchvision_input(config.model)
    config.backbone_weights = "IMAGENET1K_V1"
    return config
