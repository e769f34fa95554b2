"""Mask R-CNN R50-FPN on COCO, 1x schedule: 90,000 steps of 16 images, about 12 epochs.

    python train.py --config=configs/r50_fpn_1x.py --workdir=runs/r50_1x

The backbone starts from torchvision's ImageNet weights, which a run downloads once.

Not run. Tests check shapes and parameter counts at full size. Detectron2
reports box AP 38.6 and mask AP 35.2 for this schedule.
"""

from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = Config()  # The other defaults are this experiment.
    config.backbone_weights = "IMAGENET1K_V1"
    return config
