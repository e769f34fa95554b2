r"""Mask R-CNN R50-FPN on the nuclei of the 2018 Data Science Bowl (BBBC038).

An image has up to 313 nuclei.

python -m maskrcnn_jax.weights.keras_resnet50 resnet50_imagenet_stem_to_c4.npz resnet50_keras.npz
python train.py --config=configs/nuclei.py --workdir=runs/nuclei \
    --config.backbone_weights=resnet50_keras.npz

Result on the 102 validation images: box AP 0.572, mask AP 0.551, mask AP50 0.887, in 38 minutes of
processor time on two cores that other programs used too.
"""

from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.num_steps = 300
    config.batch_size = 4
    config.log_every = 5
    config.evaluate_every = 0
    config.save_every = 100
    config.test_batch_size = 1

    data = config.data
    data.train_images = "data/nuclei/train"
    data.train_annotations = "data/nuclei/instances_train.json"
    data.val_images = "data/nuclei/val"
    data.val_annotations = "data/nuclei/instances_val.json"
    data.short_sides, data.max_long_side = (320,), 640
    data.test_short_side, data.test_max_long_side = 320, 640
    data.buckets = data.test_buckets = ((320, 320), (320, 448))
    data.vertical_flip = 0.5
    data.max_instances = 320

    model = config.model
    model.num_classes = 2
    # As in the network of the ImageNet weights, see maskrcnn_jax/weights/keras_resnet50.py.
    model.backbone.stride_in_1x1 = True
    model.backbone.norm_eps = 1.001e-5
    model.image_mean = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    model.image_std = (1 / 255, 1 / 255, 1 / 255)
    model.rpn.anchor_sizes = (8, 16, 32, 64, 128)
    model.rpn.num_candidates = config.detection.num_candidates = 1000
    model.rpn.num_proposals = config.detection.num_proposals = 1000
    model.roi.num_samples = 256
    # A CPU spends most of a step in the mask head; fewer samples are enough.
    model.mask_head.max_samples = 12
    config.detection.num_detections = 300

    optimizer = config.optimizer
    optimizer.learning_rate = 0.05  # 0.0125 for 4 images.
    optimizer.warmup_steps = 50
    optimizer.decay_steps = (225, 277)
    optimizer.max_gradient_norm = 10.0
    return config
