"""Mask R-CNN with a ConvNeXt-T on COCO, 36 epochs, from torchvision's ImageNet weights.

    python train.py --config=configs/convnext_t_fpn_3x.py --workdir=runs/convnext_t

The optimizer and the schedule are those of the paper (Liu et al., 2022, appendix A.3): AdamW, a
learning rate of 1e-4 for 16 images, which falls by 0.95 from each stage to the one before, and
stochastic depth. The paper decays it by layer groups of blocks.

Not run. Tests check shapes and parameter counts at full size. The paper
reports box AP 46.2 and mask AP 41.7 for its own code and weights.
"""

from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.model_config import ConvNeXtConfig


def get_config() -> Config:
    config = Config(num_steps=270_000, backbone_weights="IMAGENET1K_V1")
    config.model.backbone = ConvNeXtConfig(drop_path=0.4)
    config.data.short_sides = (640, 672, 704, 736, 768, 800)
    config.optimizer = OptimizerConfig(
        name="adamw",
        learning_rate=1e-4,
        weight_decay=0.05,
        decay="kernels",
        layer_decay=0.95,
        decay_steps=(202_500, 247_500),
    )
    return config
