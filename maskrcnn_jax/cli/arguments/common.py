"""Arguments that several commands have."""

from typing import Any

WEIGHTS = (
    "directory of a training run, or of one of its checkpoints (RUN/checkpoints/STEP); or a weight "
    "file of ours, torchvision, Detectron2 or MMDetection (.npz, .pth, .safetensors, .pkl); or "
    "COCO_V1 or V2_COCO_V1: torchvision's maskrcnn_resnet50_fpn and maskrcnn_resnet50_fpn_v2, "
    "downloaded once; or a name such as detectron2:mask_rcnn_R_50_FPN_3x or "
    "mmdet:mask-rcnn_r50_fpn_1x_coco; or hf://OWNER/NAME, a model of the Hugging Face Hub"
)
MAX_BATCH_SIZE = 1024  # A batch of images of usual sizes already takes gigabytes.


def add_force(parser: Any, what: str) -> None:
    """Adds ``--force``; its help says what it replaces."""
    parser.add_argument("--force", action="store_true", help=f"replace {what}")
