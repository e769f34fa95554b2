"""Mask R-CNN R50-DC5 on COCO, 3x schedule, by the rules of Detectron2: a dilated C5, no pyramid.

    python train.py --config=configs/r50_dc5_3x.py --workdir=runs/dc5_3x

The backbone starts from torchvision's ImageNet weights, which a run downloads once.

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 40.0 and mask AP 35.9 for this schedule, with another backbone.
"""

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = presets.detectron2_r50_dc5()
    presets.use_torchvision_input(config.model)
    config.backbone_weights = "IMAGENET1K_V1"
    return config
