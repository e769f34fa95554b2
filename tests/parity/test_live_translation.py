"""Loads files of `convert --to` strictly in torchvision, Detectron2 and MMDetection, and detects.

The detections are compared with ours by the rules that the library has, as `convert` reports them.
`test_live_families` says what must be installed.
"""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")

from maskrcnn_jax import images, presets  # noqa: E402
from maskrcnn_jax.data.categories import Categories  # noqa: E402
from maskrcnn_jax.detector import Detector  # noqa: E402
from maskrcnn_jax.parity import recipe, reference  # noqa: E402
from maskrcnn_jax.weights import translation  # noqa: E402
from maskrcnn_jax.weights.loading import LoadedModel  # noqa: E402
from tests.parity.test_live_families import (  # noqa: E402
    PHOTOGRAPH,
    import_detectron2,
    import_mmdetection,
)

SHORT_SIDE, MAX_LONG_SIDE = 320, 533


def written(name, path, target):
    """Writes a file for a library with random weights of a model of another one."""
    config = recipe.whole_config(name)
    loaded = LoadedModel(config, recipe.variables(config.model), Categories.coco(), None)
    found = translation.translate(loaded, target)
    translation.write(path, found)
    return found


def ours(found, image):
    """Our detections by the rules that the library has."""
    config = found.config
    config.data.test_short_side, config.data.test_max_long_side = SHORT_SIDE, MAX_LONG_SIDE
    loaded = LoadedModel(config, found.variables, found.categories, None)
    (detections,) = Detector.from_loaded(loaded)(image)
    return detections


def pasted_box(box):
    """The box enlarged by 30 / 28, truncated to whole pixels: torchvision pastes into it."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * 30 / 28
    return np.trunc([*(centre - half), *(centre + half)])


def check(found, boxes, scores, labels, masks, *, truncated=False):
    """Checks that all detections pair off, and that their masks differ in few pixels.

    With ``truncated`` boxes, at most one mask in a hundred may be pasted one pixel further, because
    a corner lies next to a whole pixel. Such a mask is not compared.
    """
    assert len(boxes) >= 50 and len(found["boxes"]) == len(boxes)
    box = np.abs(found["boxes"][:, None] - boxes[None]).max(-1)
    score = np.abs(found["scores"][:, None] - scores[None])
    same = (box < 0.05) & (score < 1e-4) & (found["labels"][:, None] == labels[None])
    pairs = [(i, int(np.flatnonzero(row)[0])) for i, row in enumerate(same) if row.any()]
    print(f"{len(pairs)} of {len(boxes)} detections pair")
    assert len({j for _, j in pairs}) >= 0.99 * len(boxes)
    if truncated:
        alike = [np.array_equal(*map(pasted_box, (found["boxes"][i], boxes[j]))) for i, j in pairs]
        assert alike.count(False) <= 0.01 * len(pairs)
        pairs = [pair for pair, is_alike in zip(pairs, alike, strict=True) if is_alike]
    differing = sum(np.count_nonzero((found["masks"][i, 0] > 0.5) != masks[j]) for i, j in pairs)
    assert differing <= 1e-3 * sum(np.count_nonzero(masks[j]) for _, j in pairs)


def test_detectron2s_weights_in_mmdetection(tmp_path):
    import_mmdetection()
    mmdet, apis = (importlib.import_module(x) for x in ("mmdet", "mmdet.apis"))
    mmengine_config = importlib.import_module("mmengine.config")
    checkpoint = importlib.import_module("mmengine.runner.checkpoint")

    found = written("detectron2_r50_fpn", tmp_path / "mm.pth", "mmdet")
    assert found.is_bgr and not any(each.setting for each in found.differences)
    folder = Path(mmdet.__file__).parent / ".mim" / "configs"
    config = mmengine_config.Config.fromfile(folder / found.base)
    config.model.backbone.init_cfg = None
    for step in config.test_dataloader.dataset.pipeline:
        if step.type == "Resize":
            step.scale = (MAX_LONG_SIDE, SHORT_SIDE)
    model = apis.init_detector(config, None, device="cpu")
    loaded = checkpoint.load_checkpoint(model, str(tmp_path / "mm.pth"), "cpu", strict=True)
    assert tuple(loaded["meta"]["dataset_meta"]["classes"]) == found.categories.names
    theirs = apis.inference_detector(model, str(PHOTOGRAPH)).pred_instances.numpy()
    detections = ours(found, PHOTOGRAPH)
    check(detections, theirs.bboxes, theirs.scores, theirs.labels + 1, theirs.masks)


@pytest.fixture
def checkout():
    import_detectron2()
    if not os.environ.get("DETECTRON2"):
        pytest.skip("DETECTRON2 does not name a checkout, which has the configs")
    return Path(os.environ["DETECTRON2"])


def settings(found, checkout):
    """The config that the report names, with the settings that it lists."""
    cfg = importlib.import_module("detectron2.config").get_cfg()
    cfg.merge_from_file(str(checkout / "configs" / found.base))
    for each in found.differences:
        if each.setting:
            key, _, value = each.setting.partition(": ")
            cfg.merge_from_list([key, yaml.safe_load(value)])
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = SHORT_SIDE, MAX_LONG_SIDE
    return cfg


def check_is_complete(model, path):
    loader = importlib.import_module("detectron2.checkpoint").DetectionCheckpointer(model)
    found = loader._load_model(loader._load_file(str(path)))
    assert not found.missing_keys and not found.unexpected_keys and not found.incorrect_shapes


def test_mmdetections_weights_in_detectron2(tmp_path, checkout):
    engine = importlib.import_module("detectron2.engine.defaults")
    found = written("mmdet_r50_fpn", tmp_path / "d2.pkl", "detectron2")
    cfg = settings(found, checkout)
    assert cfg.INPUT.FORMAT == "RGB" and not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    cfg.MODEL.WEIGHTS = str(tmp_path / "d2.pkl")
    predictor = engine.DefaultPredictor(cfg)
    check_is_complete(predictor.model, tmp_path / "d2.pkl")
    image = images.read_image(PHOTOGRAPH)
    # The predictor takes BGR, whatever the format of the model.
    theirs = predictor(image[:, :, ::-1])["instances"]
    boxes, masks = theirs.pred_boxes.tensor.numpy(), theirs.pred_masks.numpy()
    labels = theirs.pred_classes.numpy() + 1
    check(ours(found, image), boxes, theirs.scores.numpy(), labels, masks)


def test_detectron2_finds_the_batch_counters_of_all_norms(tmp_path, checkout):
    found = written("detectron2_r50_fpn_syncbn", tmp_path / "d2.pkl", "detectron2")
    model = importlib.import_module("detectron2.modeling").build_model(settings(found, checkout))
    assert sum(x.endswith("num_batches_tracked") for x in model.state_dict()) == 69
    check_is_complete(model, tmp_path / "d2.pkl")


# ViTDet has no YAML; `test_live_families` loads its arrays. A cascade has one mask head or several,
# and only Detectron2 has DC5 networks.
NAMES = [x for x in presets.OF_OTHERS if "vitdet" not in x]
IN_DETECTRON2 = [x for x in NAMES if x != "mmdet_cascade_r50_fpn"]
OF_ONE = ("detectron2_cascade_r50_fpn", "detectron2_r50_dc5")
IN_MMDETECTION = [x for x in NAMES if x not in OF_ONE]


@pytest.mark.parametrize("name", IN_DETECTRON2)
def test_files_of_all_presets_are_complete_in_detectron2(tmp_path, checkout, name):
    found = written(name, tmp_path / "d2.pkl", "detectron2")
    assert name.startswith("mmdet") or all(each.setting for each in found.differences)
    model = importlib.import_module("detectron2.modeling").build_model(settings(found, checkout))
    check_is_complete(model, tmp_path / "d2.pkl")


@pytest.mark.parametrize("name", IN_MMDETECTION)
def test_files_of_all_presets_are_complete_in_mmdetection(tmp_path, name):
    program = import_mmdetection()
    checkpoint = importlib.import_module("mmengine.runner.checkpoint")
    found = written(name, tmp_path / "mm.pth", "mmdet")
    assert name.startswith("detectron2") or found.differences == []
    if any(each.setting for each in found.differences):
        config = program.settings(found.config)  # As the report says in words.
    else:
        folder = Path(program.mmdet.__file__).parent / ".mim" / "configs"
        config = program.MMConfig.fromfile(folder / found.base)
    config.model.backbone.init_cfg = None
    model = program.MODELS.build(config.model)
    checkpoint.load_checkpoint(model, str(tmp_path / "mm.pth"), "cpu", strict=True)


def test_detectron2s_weights_in_torchvision(tmp_path):
    torch = reference.torch
    from torchvision.models import detection
    from torchvision.ops import MultiScaleRoIAlign

    found = written("detectron2_r50_fpn", tmp_path / "tv.pth", "torchvision")
    assert {each.rule for each in found.differences if each.setting} == {
        *("model.image_std", "model.roi.sampling_ratio"),
        "model.backbone.stride_in_1x1",
    }
    model = detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        image_mean=presets.CAFFE_MEAN,
        image_std=presets.CAFFE_STD,
        min_size=SHORT_SIDE,
        max_size=MAX_LONG_SIDE,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 0),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 0),
    ).eval()
    for stage in ("layer2", "layer3", "layer4"):
        block = model.backbone.body[stage][0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    state = torch.load(tmp_path / "tv.pth", weights_only=True)
    # Without weights torchvision builds trained norms, which count batches.
    counters = [x for x in model.state_dict() if x.endswith("num_batches_tracked")]
    model.load_state_dict(state | {x: torch.tensor(0) for x in counters}, strict=True)
    image = images.read_image(PHOTOGRAPH)
    with torch.no_grad():
        (theirs,) = model([torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)])
    names = "boxes", "scores", "labels", "masks"
    boxes, scores, labels, masks = (theirs[name].numpy() for name in names)
    check(ours(found, image), boxes, scores, labels, masks[:, 0] > 0.5, truncated=True)
