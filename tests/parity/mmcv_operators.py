"""Torchvision's operators where MMCV looks for its own, for ``mmcv-lite``, which has none.

Both libraries compute NMS and RoIAlign by the same rules.
"""

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


class _Extension(types.ModuleType):
    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None  # An operator that Mask R-CNN does not use; calling it fails.


def stand_in(operators: Any) -> None:
    """Puts ``torch.ops.torchvision`` where MMCV looks for its operators, unless it has them."""
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext") is not None:
        return

    def nms(boxes: Any, scores: Any, iou_threshold: float, offset: int) -> Any:
        assert offset == 0
        return operators.nms(boxes, scores, iou_threshold)

    def roi_align_forward(
        x: Any, rois: Any, output: Any, argmax_y: Any, argmax_x: Any, **settings: Any
    ) -> None:
        assert settings["pool_mode"] == 1  # The mean of the samples.
        size = settings["aligned_height"], settings["aligned_width"]
        rest = settings["sampling_ratio"], settings["aligned"]
        output.copy_(operators.roi_align(x, rois, settings["spatial_scale"], *size, *rest))

    def roi_align_backward(
        gradient: Any, rois: Any, argmax_y: Any, argmax_x: Any, output: Any, **settings: Any
    ) -> None:
        size = settings["aligned_height"], settings["aligned_width"], *output.shape
        rest = settings["sampling_ratio"], settings["aligned"]
        scale = settings["spatial_scale"]
        output.copy_(operators._roi_align_backward(gradient, rois, scale, *size, *rest))

    extension = _Extension("mmcv._ext")
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    extension.nms = nms
    extension.roi_align_forward, extension.roi_align_backward = (
        roi_align_forward,
        roi_align_backward,
    )
    sys.modules["mmcv._ext"] = extension
