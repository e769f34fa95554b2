# The public names, for type checkers: `__init__.py` imports each of them at its first use.

from maskrcnn_jax.config import Config as Config
from maskrcnn_jax.detector import Detector as Detector
from maskrcnn_jax.model import MaskRCNN as MaskRCNN
from maskrcnn_jax.model_config import ModelConfig as ModelConfig
from maskrcnn_jax.test_time_augmentation import AugmentedDetector as AugmentedDetector
from maskrcnn_jax.torchvision_models import fasterrcnn_resnet50_fpn as fasterrcnn_resnet50_fpn
from maskrcnn_jax.torchvision_models import fasterrcnn_resnet50_fpn_v2 as fasterrcnn_resnet50_fpn_v2
from maskrcnn_jax.torchvision_models import maskrcnn_resnet50_fpn as maskrcnn_resnet50_fpn
from maskrcnn_jax.torchvision_models import maskrcnn_resnet50_fpn_v2 as maskrcnn_resnet50_fpn_v2

__version__: str
__all__: list[str]
