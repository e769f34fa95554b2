"""A small Mask R-CNN on synthetic shapes, for a laptop without a GPU. `make demo` runs it.

    python train.py --config=configs/shapes.py --workdir=runs/shapes

Result on 100 unseen images: box AP 0.728, mask AP 0.680, mask AP50 0.904, in 6 CPU minutes.
"""

from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.num_steps = 880
    config.batch_size = 4
    config.log_every = 25
    config.evaluate_every = 0
    config.save_every = 440
    config.test_batch_size = 10

    data = config.data
    data.source = "shapes"
    data.short_sides = (128,)
    data.max_long_side = 128
    data.test_short_side, data.test_max_long_side = 128, 128
    data.buckets = data.test_buckets = ((128, 128),)
    data.vertical_flip = 0.5
    data.max_instances = 8

    model = config.model
    model.num_classes = 6
    model.backbone.depth = 18
    model.backbone.stem_channels = 32
    model.backbone.norm = model.fpn.norm = "group"
    model.backbone.frozen_stages = 0
    model.fpn.channels = 64
    model.box_head.features = 256
    model.mask_head.channels = 64
    model.rpn.anchor_sizes = (16, 32, 64, 96, 128)
    model.rpn.num_samples = 64
    model.rpn.num_candidates = config.detection.num_candidates = 200
    model.rpn.num_proposals = config.detection.num_proposals = 100
    model.roi.num_samples = 64
    model.mask_head.max_samples = 8
    config.detection.num_detections = 20

    optimizer = config.optimizer
    optimizer.name = "adamw"
    optimizer.learning_rate = 0.004  # 0.001 for 4 images.
    optimizer.warmup_steps = 50
    optimizer.decay_steps = (640, 810)
    optimizer.max_gradient_norm = 10.0
    return config
