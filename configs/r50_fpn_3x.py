"""Mask R-CNN R50-FPN on COCO, 3x schedule: 270,000 steps of 16 images, short sides of 640 to 800.

    python train.py --config=configs/r50_fpn_3x.py --workdir=runs/r50_3x

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 41.0 and mask AP 37.2 for this schedule.
"""

from configs import r50_fpn_1x
from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = r50_fpn_1x.get_config()
    config.num_steps = 270_000
    config.optimizer.decay_steps = (210_000, 250_000)
    config.data.short_sides = (640, 672, 704, 736, 768, 800)
    return config
