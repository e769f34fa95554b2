"""Mask R-CNN R50-FPN on COCO from random weights: 100 epochs of 64 images with large-scale jitter.

    python train.py --config=configs/r50_fpn_lsj.py --workdir=runs/r50_lsj

Images are scaled by 0.1 to 2.0 times the size that fits a square of 1024. Batch norms in the
backbone, the pyramid and the heads take the statistics of all 64 images, whatever the devices, so
do not divide the batch into parts (execution.num_microbatches).

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 44.6 and mask AP 40.3 for this schedule.
"""

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config


def get_config() -> Config:
    return presets.detectron2_r50_fpn_lsj()
