"""Mask R-CNN with ViTDet's ViT-B on COCO: 100 epochs of 64 images with large-scale jitter.

    python train.py --config=configs/vitdet_b_lsj.py --workdir=runs/vitdet_b \\
        --config.backbone_weights=mae_pretrain_vit_base.pth --config.model.dtype=bfloat16

The weights are MAE's (He et al., 2021). The learning rate falls by 0.7 from each block to the one
before. Blocks are rematerialised, which saves memory.

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 51.6 and mask AP 45.9 for this schedule.
"""

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config


def get_config() -> Config:
    return presets.detectron2_vitdet_b()
