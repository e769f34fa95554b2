"""Mask R-CNN R101-FPN on COCO, 3x schedule.

    python train.py --config=configs/r101_fpn_3x.py --workdir=runs/r101_3x

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 42.9 and mask AP 38.6 for this schedule.
"""

from configs import r50_fpn_3x
from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = r50_fpn_3x.get_config()
    config.model.backbone.depth = 101
    return config
