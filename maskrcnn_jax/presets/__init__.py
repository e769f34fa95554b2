"""Configs of networks with a name.

Those that torchvision builds have the names of its functions and are a `ModelConfig`. Those of
Detectron2 and MMDetection are a whole `Config`: their rules for resizing images, for masks and for
the final boxes belong to the model, detection and data settings, and their schedules are those of a
training on COCO.
"""

from maskrcnn_jax.presets.detectron2 import (
    COCO_80_CLASSES,
    detectron2_cascade_r50_fpn,
    detectron2_r50_c4,
    detectron2_r50_dc5,
    detectron2_r50_fpn,
    detectron2_r50_fpn_gn,
    detectron2_r50_fpn_lsj,
    detectron2_r50_fpn_syncbn,
    detectron2_r101_fpn,
    detectron2_vitdet_b,
    detectron2_vitdet_l,
    detectron2_x101_32x8d_fpn,
    use_c4,
    use_cascade,
    use_dc5,
)
from maskrcnn_jax.presets.matching import OF_OTHERS, applied, name_of
from maskrcnn_jax.presets.mmdetection import (
    mmdet_cascade_r50_fpn,
    mmdet_r50_caffe_c4,
    mmdet_r50_caffe_fpn,
    mmdet_r50_fpn,
    mmdet_r50_fpn_gn,
    mmdet_r101_fpn,
    mmdet_x101_32x4d_fpn,
    mmdet_x101_32x8d_fpn,
    mmdet_x101_64x4d_fpn,
    use_cascade_of_mmdetection,
)
from maskrcnn_jax.presets.pixels import (
    CAFFE_MEAN,
    CAFFE_STD,
    LARGEST_STD_OF_CAFFE,
    is_of_caffe,
    is_of_fair,
    reads_bgr,
    use_torchvision_input,
)
from maskrcnn_jax.presets.torchvision import (
    COCO_CLASSES,
    PRESETS,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_convnext_tiny_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

__all__ = [
    "CAFFE_MEAN",
    "CAFFE_STD",
    "COCO_80_CLASSES",
    "COCO_CLASSES",
    "LARGEST_STD_OF_CAFFE",
    "OF_OTHERS",
    "PRESETS",
    "applied",
    "detectron2_cascade_r50_fpn",
    "detectron2_r101_fpn",
    "detectron2_r50_c4",
    "detectron2_r50_dc5",
    "detectron2_r50_fpn",
    "detectron2_r50_fpn_gn",
    "detectron2_r50_fpn_lsj",
    "detectron2_r50_fpn_syncbn",
    "detectron2_vitdet_b",
    "detectron2_vitdet_l",
    "detectron2_x101_32x8d_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "is_of_caffe",
    "is_of_fair",
    "maskrcnn_convnext_tiny_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "mmdet_cascade_r50_fpn",
    "mmdet_r101_fpn",
    "mmdet_r50_caffe_c4",
    "mmdet_r50_caffe_fpn",
    "mmdet_r50_fpn",
    "mmdet_r50_fpn_gn",
    "mmdet_x101_32x4d_fpn",
    "mmdet_x101_32x8d_fpn",
    "mmdet_x101_64x4d_fpn",
    "name_of",
    "reads_bgr",
    "use_c4",
    "use_dc5",
    "use_cascade",
    "use_cascade_of_mmdetection",
    "use_dc5",
    "use_torchvision_input",
]
