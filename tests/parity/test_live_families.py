"""Compares detections with Detectron2 and MMDetection, live, on the same random weights.

MMDetection needs ``mmdet==3.3.0 mmcv-lite==2.1.0 mmengine``. Detectron2 needs a checkout, which the
environment variable DETECTRON2 names, and ``fvcore iopath omegaconf hydra-core yacs``; nothing of
it is compiled. Both compute with torchvision's operators.
"""

import importlib.machinery
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")
if not os.environ.get("MASKRCNN_JAX_SHARED"):
    reason = "MASKRCNN_JAX_SHARED does not name the folder with the photographs"
    pytest.skip(reason, allow_module_level=True)

from maskrcnn_jax import images, presets  # noqa: E402
from maskrcnn_jax.detector import Detector  # noqa: E402
from maskrcnn_jax.parity import recipe, reference  # noqa: E402
from maskrcnn_jax.weights import (  # noqa: E402
    detectron2,
    files,
    layout,
    loading,
    mmdetection,
    torchvision,
)

SHORT_SIDE, MAX_LONG_SIDE = 320, 533
PHOTOGRAPH = "data/coco_subset/val/000000119828.jpg"


def write_weights(path, family, config, *, is_bgr):
    """Writes random weights that give about as many detections as slots."""
    state = recipe.state_dict(config.model)
    # The recipe is for pixels that are divided by a deviation of 58 of 255.
    stem = state[torchvision.STEM] * np.float32(np.mean(config.model.image_std) * 255 / 58)
    state[torchvision.STEM] = np.ascontiguousarray(stem[:, ::-1]) if is_bgr else stem
    # The statistics of the stem tell the scale of its pixels; see `weights.guess`.
    variance = np.square(stem).sum((1, 2, 3)) / np.mean(config.model.image_std) ** 2 * 0.05
    state[f"{torchvision.BODY}bn1.running_var"] = variance.astype(np.float32)
    variables = torchvision.from_state_dict(state, config.model)
    named = layout.restore(variables, list(family.entries(config.model)))
    files.write(path, named)
    return named


def ours(path):
    loaded = loading.load(path)
    loaded.config.data.test_short_side = SHORT_SIDE
    loaded.config.data.test_max_long_side = MAX_LONG_SIDE
    return Detector.from_loaded(loaded)


def check(found, boxes, scores, labels, masks):
    """Checks that all detections pair off, and that their masks differ in few pixels."""
    assert len(boxes) >= 50
    box = np.abs(found["boxes"][:, None] - boxes[None]).max(-1)
    score = np.abs(found["scores"][:, None] - scores[None])
    same = (box < 0.05) & (score < 1e-4) & (found["labels"][:, None] == labels[None] + 1)
    pairs = [(i, int(np.flatnonzero(row)[0])) for i, row in enumerate(same) if row.any()]
    assert len({j for _, j in pairs}) >= 0.99 * len(boxes) and len(found["boxes"]) == len(boxes)
    differing = sum(np.count_nonzero((found["masks"][i, 0] > 0.5) != masks[j]) for i, j in pairs)
    assert differing <= 1e-3 * sum(np.count_nonzero(masks[j]) for _, j in pairs)


def stand_in_for_mmcv():
    """Puts torchvision's operators where MMCV looks for its own; both follow one rule."""
    operators = reference.torch.ops.torchvision

    def nms(boxes, scores, iou_threshold, offset):
        assert offset == 0
        return operators.nms(boxes, scores, iou_threshold)

    def roi_align_forward(x, rois, output, argmax_y, argmax_x, **settings):
        assert settings["pool_mode"] == 1
        size = settings["aligned_height"], settings["aligned_width"]
        rest = settings["sampling_ratio"], settings["aligned"]
        output.copy_(operators.roi_align(x, rois, settings["spatial_scale"], *size, *rest))

    class Extension(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return None  # An operator that Mask R-CNN does not use.

    extension = Extension("mmcv._ext")
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    extension.nms, extension.roi_align_forward = nms, roi_align_forward
    sys.modules["mmcv._ext"] = extension


@pytest.mark.parametrize(
    "name, preset", [("r50", presets.mmdet_r50_fpn), ("r50-caffe", presets.mmdet_r50_caffe_fpn)]
)
def test_detections_pair_off_with_mmdetections(shared, tmp_path, name, preset):
    mmdet = pytest.importorskip("mmdet", reason="the comparison needs MMDetection")
    stand_in_for_mmcv()
    apis = importlib.import_module("mmdet.apis")
    mmengine_config = importlib.import_module("mmengine.config")

    weights = write_weights(
        tmp_path / "w.pth", mmdetection, preset(), is_bgr=preset is presets.mmdet_r50_caffe_fpn
    )
    folder = Path(mmdet.__file__).parent / ".mim" / "configs" / "mask_rcnn"
    config = mmengine_config.Config.fromfile(folder / f"mask-rcnn_{name}_fpn_1x_coco.py")
    config.model.backbone.init_cfg = None
    for step in config.test_dataloader.dataset.pipeline:
        if step.type == "Resize":
            step.scale = (MAX_LONG_SIDE, SHORT_SIDE)
    model = apis.init_detector(config, None, device="cpu")
    tensors = {name: reference.torch.from_numpy(x.copy()) for name, x in weights.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all(x.endswith("num_batches_tracked") for x in missing)
    theirs = apis.inference_detector(model, str(shared / PHOTOGRAPH)).pred_instances.numpy()

    (found,) = ours(tmp_path / "w.pth")(shared / PHOTOGRAPH)
    check(found, theirs.bboxes, theirs.scores, theirs.labels, theirs.masks)


def test_detections_pair_off_with_detectron2s(shared, tmp_path, monkeypatch):
    checkout = os.environ.get("DETECTRON2")
    if not checkout:
        pytest.skip("DETECTRON2 does not name a checkout")
    monkeypatch.syspath_prepend(checkout)
    config_module = importlib.import_module("detectron2.config")
    engine = importlib.import_module("detectron2.engine.defaults")

    write_weights(tmp_path / "w.pth", detectron2, presets.detectron2_r50_fpn(), is_bgr=True)
    cfg = config_module.get_cfg()
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    cfg.merge_from_file(str(Path(checkout) / "configs" / name))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(tmp_path / "w.pth")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = SHORT_SIDE, MAX_LONG_SIDE
    image = images.read_image(shared / PHOTOGRAPH)
    theirs = engine.DefaultPredictor(cfg)(image[:, :, ::-1])["instances"]

    (found,) = ours(tmp_path / "w.pth")(image)
    boxes = theirs.pred_boxes.tensor.numpy()
    masks = theirs.pred_masks.numpy()
    check(found, boxes, theirs.scores.numpy(), theirs.pred_classes.numpy(), masks)
