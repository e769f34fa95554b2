"""Mask R-CNN R50-FPN on COCO from random weights, with large-scale jitter and simple copy-paste.

    python train.py --config=configs/r50_fpn_copy_paste.py --workdir=runs/r50_copy_paste

Random objects of a second image are pasted over each image (Ghiasi et al., 2021). The schedule is
that of configs/r50_fpn_lsj.py; the paper trains four times as long.

Not run. Tests check shapes and parameter counts at full size.
"""

from configs import r50_fpn_lsj
from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = r50_fpn_lsj.get_config()
    config.data.copy_paste = 1.0
    return config
