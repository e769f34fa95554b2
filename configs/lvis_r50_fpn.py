"""Mask R-CNN R50-FPN on LVIS v1: 1,203 classes, 180,000 steps of 16 images, about 28 epochs.

    python train.py --config=configs/lvis_r50_fpn.py --workdir=runs/lvis

The images are those of COCO: in ``data/coco`` are ``train2017`` and ``val2017``. Images with rare
classes are repeated. Each class has a probability of its own, and the loss of an image counts 50
classes (federated loss). The schedule, the scores and the detections are those of Detectron2's
``mask_rcnn_R_50_FPN_1x`` for LVIS v1, whose loss is softmax.

Not run. Tests check shapes and parameter counts at full size. docs/data.md says what memory a
step takes.
"""

from configs import r50_fpn_3x
from maskrcnn_jax.config import Config


def get_config() -> Config:
    config = r50_fpn_3x.get_config()
    config.num_steps = 180_000
    config.optimizer.decay_steps = (120_000, 160_000)

    data = config.data
    data.train_images = data.val_images = "data/coco"  # The files name their folders in it.
    data.train_annotations = "data/lvis/lvis_v1_train.json"
    data.val_annotations = "data/lvis/lvis_v1_val.json"
    data.sampling = "repeat_factor"
    data.max_instances = 300

    config.model.num_classes = 1204
    config.model.box_head.classifier = "sigmoid"
    config.model.box_head.federated_classes = 50
    config.detection.score_threshold = 1e-4
    config.detection.num_detections = 300
    return config
