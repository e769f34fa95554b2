"""Compares each stage and each detection with Detectron2 and MMDetection, live, on random weights.

``make test-parity`` installs MMDetection, and runs one of its models. Detectron2 is not among its
packages: the environment variable DETECTRON2 names a checkout, of which nothing is compiled.
``maskrcnn-jax parity --family`` prints the same comparison.
"""

import importlib
import importlib.util
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")

from maskrcnn_jax import images  # noqa: E402
from maskrcnn_jax.parity import comparison, recipe, reference, report  # noqa: E402
from maskrcnn_jax.parity.jax_model import JaxModel  # noqa: E402
from maskrcnn_jax.weights import loading  # noqa: E402
from tests.parity import mmcv_operators  # noqa: E402

SIZES = {"short_side": 320, "max_long_side": 533}
PHOTOGRAPH = Path(__file__).with_name("fruits.jpg")
ZOO = {
    "detectron2_r50_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    "detectron2_r101_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml",
    "detectron2_x101_32x8d_fpn": "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml",
    "detectron2_r50_fpn_gn": "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
    "detectron2_r50_fpn_syncbn": "Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml",
    "detectron2_cascade_r50_fpn": "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
    "detectron2_r50_c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml",
    "detectron2_r50_dc5": "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x.yaml",
    "mmdet_r50_fpn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "mmdet_r101_fpn": "mask_rcnn/mask-rcnn_r101_fpn_1x_coco.py",
    "mmdet_x101_32x4d_fpn": "mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py",
    "mmdet_x101_64x4d_fpn": "mask_rcnn/mask-rcnn_x101-64x4d_fpn_1x_coco.py",
    "mmdet_x101_32x8d_fpn": "mask_rcnn/mask-rcnn_x101-32x8d_fpn_1x_coco.py",
    "mmdet_r50_caffe_fpn": "mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet_r50_fpn_gn": "gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py",
    "mmdet_r50_caffe_c4": "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py",
    "mmdet_cascade_r50_fpn": "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
}


def import_mmdetection():
    pytest.importorskip("mmdet", reason="the comparison needs MMDetection")
    mmcv_operators.stand_in(reference.torch.ops.torchvision)
    return importlib.import_module("maskrcnn_jax.parity.mmdetection")


def import_detectron2():
    if not os.environ.get("DETECTRON2") and importlib.util.find_spec("detectron2") is None:
        pytest.skip("DETECTRON2 does not name a checkout, and Detectron2 is not installed")
    return importlib.import_module("maskrcnn_jax.parity.detectron2")


def program_of(name):
    return import_mmdetection() if name.startswith("mmdet") else import_detectron2()


def write(path, name, peer):
    """Writes the weights of a peer in the form of its checkpoints."""
    state = peer.model.state_dict()
    if name.startswith("mmdet"):
        content = {"meta": {"mmdet_version": "3.3.0"}, "state_dict": state}
    else:
        content = {"model": state, "iteration": 0}
    reference.torch.save(content, path)


def comparer(name, path, config=None):
    """Both models; ours is loaded from a file with the peer's weights."""
    config, sizes = config or recipe.whole_config(name), SIZES
    if "vitdet" in name:
        side = SIZES["short_side"]
        config.model.backbone.image_side, sizes = side, dict.fromkeys(SIZES, side)
    variables = recipe.variables(config.model)
    peer = program_of(name).peer(config, variables, **sizes)
    write(path, name, peer)
    loaded = loading.load(path)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert (loaded.config.model, loaded.config.detection) == (config.model, config.detection)
    return comparison.Comparer(peer, JaxModel(loaded.config, loaded.variables, **sizes))


def check(subject, stages):
    result = report.Report("random", subject.peer.name, stages, [subject.alone], {})
    print(report.to_markdown(result))
    assert subject.alone.num_theirs >= 50 and subject.alone.num_pixels >= 1000
    assert result.passed


# On the photograph, masks of these random networks end at a corner that lies at a whole pixel, and
# one side draws another column.
MASKS_TO_WHOLE_PIXELS = {"mmdet_cascade_r50_fpn", "detectron2_vitdet_b"}


def test_mmdetection(tmp_path):
    """Compares whole networks; the slow tests and the recordings compare stages."""
    subject = comparer("mmdet_r50_fpn", tmp_path / "weights.pth")
    image = [images.read_image(PHOTOGRAPH)]
    (theirs,), (ours,) = subject.peer.predict(image), subject.jax_model.predict(image)
    subject.compare(subject.alone, "photograph", theirs.outcome, ours)
    check(subject, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*recipe.FAMILIES["detectron2"], *recipe.FAMILIES["mmdet"]])
def test_all_stages(tmp_path, name):
    subject = comparer(name, tmp_path / "weights.pth")
    subject.add("photograph", images.read_image(PHOTOGRAPH))
    stages = list(subject.stages.values())
    if name not in MASKS_TO_WHOLE_PIXELS:
        return check(subject, stages)
    assert all(stage.passed for stage in stages)
    assert subject.alone.share >= 0.98 and not subject.alone.unexplained


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [7, 28])
def test_masks_of_other_sizes(tmp_path, resolution):
    """Masks of 14x14 and of 56x56."""
    config = recipe.whole_config("detectron2_r50_fpn")
    config.model.mask_head.resolution = resolution
    variables = recipe.variables(config.model)
    peer = program_of("detectron2").peer(config, variables, **SIZES)
    write(tmp_path / "weights.pth", "detectron2", peer)
    loaded = loading.load(tmp_path / "weights.pth", preset=config)
    assert loaded.config.model == config.model
    subject = comparison.Comparer(peer, JaxModel(loaded.config, loaded.variables, **SIZES))
    image = [images.read_image(PHOTOGRAPH)]
    (theirs,), (ours,) = subject.peer.predict(image), subject.jax_model.predict(image)
    assert theirs.mask_logits.shape[1:] == (2 * resolution, 2 * resolution)
    subject.compare(subject.alone, "photograph", theirs.outcome, ours)
    check(subject, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detectron2_r50_fpn", "mmdet_r50_fpn"])
def test_one_box_and_one_mask_for_all_classes(tmp_path, name):
    """The settings CLS_AGNOSTIC_BBOX_REG and CLS_AGNOSTIC_MASK, and those of MMDetection."""
    config = recipe.whole_config(name)
    config.model.box_head.class_agnostic = config.model.mask_head.class_agnostic = True
    subject = comparer(name, tmp_path / "weights.pth", config)
    state = subject.peer.model.state_dict()
    predictors = [x for key, x in state.items() if re.search("bbox_pred.bias|fc_reg.bias", key)]
    assert [len(x) for x in predictors] == [4]
    subject.add("photograph", images.read_image(PHOTOGRAPH))
    assert all(stage.passed for stage in subject.stages.values())
    # With MMDetection a mask has another column, as a corner lies at a whole pixel.
    assert subject.alone.num_theirs >= 50 and subject.alone.num_pixels >= 1000
    assert subject.alone.share >= 0.99 and not subject.alone.unexplained


@pytest.mark.slow
def test_other_weights_fall_short(tmp_path):
    """A change of half a per cent in the mask head shows in its stage, and in none before."""
    subject = comparer("detectron2_r50_fpn", tmp_path / "weights.pth")
    layer = subject.jax_model.variables["params"]["mask_head"]["conv2"]
    layer["kernel"] = layer["kernel"] * np.float32(1.005)
    subject.add("photograph", images.read_image(PHOTOGRAPH))
    failed = [stage.name for stage in subject.stages.values() if not stage.passed]
    assert failed == ["mask logits"]
    assert not subject.alone.passed


@pytest.mark.slow
def test_batches(tmp_path):
    """Each image alone, in a larger bucket, and in a batch on the canvas of the peer's batch."""
    subject = comparer("detectron2_r50_fpn", tmp_path / "weights.pth")
    image = images.read_image(PHOTOGRAPH)
    both = [image, np.ascontiguousarray(image[: image.shape[0] * 3 // 4])]
    sizes = [subject.jax_model.size(each) for each in both]
    subject.add_batch(["whole", "part"], both, subject.jax_model.bucket(sizes))
    assert [each.num_images for each in subject.comparisons()] == [2, 2, 2]
    assert all(each.passed and each.num_theirs >= 50 for each in subject.comparisons())


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_settings_are_those_of_the_zoo(name):
    """The settings that a peer gets from our presets are those of its own config file."""
    program, config = program_of(name), recipe.whole_config(name)
    ours = program.settings(config)
    if name.startswith("mmdet"):
        folder = Path(program.mmdet.__file__).parent / ".mim" / "configs"
        theirs = flat(program.MMConfig.fromfile(folder / ZOO[name]).model.to_dict())
        ours = flat(ours.model.to_dict())
        # Our box head is the general form of theirs; we freeze all norms, and train none.
        ignored = ("init_cfg", "bbox_head.type", "requires_grad", "norm_eval", "train_cfg")
    else:
        theirs = program.get_cfg()
        theirs.merge_from_file(str(Path(os.environ["DETECTRON2"]) / "configs" / ZOO[name]))
        ours, theirs = flat(ours.MODEL), flat(theirs.MODEL)
        # SyncBN is BN on one device. The deltas and norms of other heads are not used.
        ignored = ("WEIGHTS", "DEVICE", "KEYPOINT", "CASCADE", "SEM_SEG", "RETINANET", "PANOPTIC")
    for key, value in theirs.items():
        if not any(part in re.sub(r"\.\d", "", key) for part in ignored):
            assert plain(ours[key]) == plain(value), key


def flat(table, prefix=""):
    found = {}
    for key, value in table.items():
        if isinstance(value, list | tuple) and any(isinstance(x, dict) for x in value):
            value = dict(enumerate(value))  # The heads of a cascade.
        is_table = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if is_table else {f"{prefix}{key}": value}
    return found


def plain(value):
    """Lists as tuples, numbers with seven digits, and batch norm by one name."""
    if isinstance(value, list | tuple):
        return tuple(plain(x) for x in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(f"{value:.7g}")
    return "BN" if value == "SyncBN" else value
