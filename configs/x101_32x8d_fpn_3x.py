"""Mask R-CNN with a ResNeXt-101 32x8d on COCO, 3x schedule.

    python train.py --config=configs/x101_32x8d_fpn_3x.py --workdir=runs/x101_3x \\
        --config.backbone_weights=X-101-32x8d.pkl

X-101-32x8d.pkl is Caffe2's backbone of Detectron2's model zoo; "IMAGENET1K_V1" takes torchvision's.

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 44.3 and mask AP 39.5 for this schedule.
"""

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config


def get_config() -> Config:
    return presets.detectron2_x101_32x8d_fpn()
