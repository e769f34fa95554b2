"""Cascade Mask R-CNN R50-FPN on COCO, 3x schedule, by the rules of Detectron2.

    python train.py --config=configs/cascade_r50_fpn_3x.py --workdir=runs/cascade_3x

The backbone starts from torchvision's ImageNet weights, which a run downloads once.

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 44.3 and mask AP 38.5 for this schedule, with another backbone.
"""

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = presets.detectron2_cascade_r50_fpn()
    presets.use_torchvision_input(config.model)
    config.backbone_weights = "IMAGENET1K_V1"
    return config
