"""The settings of a model as Detectron2's; test_live_families.py compares the models."""

import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")

from maskrcnn_jax import presets  # noqa: E402
from maskrcnn_jax.weights import detectron2_config, detectron2_keys  # noqa: E402
from tests.parity.test_live_families import import_detectron2  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "detectron2_r50_fpn",
        "detectron2_x101_32x8d_fpn",
        "detectron2_r50_fpn_gn",
        "detectron2_r50_c4",
        "detectron2_r50_dc5",
        "detectron2_cascade_r50_fpn",
    ],
)
def test_the_settings_are_read_back_as_the_model(name, tmp_path):
    module = import_detectron2()
    config = presets.OF_OTHERS[name](5)
    config.model.rpn.nms_threshold, config.detection.num_detections = 0.625, 50
    settings = module.settings(config)
    (tmp_path / "config.yaml").write_text(settings.dump())
    found, order = detectron2_config.read(tmp_path / "config.yaml")
    assert found.model == config.model and found.detection == config.detection
    assert order == settings.INPUT.FORMAT == ("BGR" if presets.reads_bgr(config.model) else "RGB")


def test_a_model_without_masks_and_pixels_in_rgb():
    module = import_detectron2()
    config = presets.detectron2_r50_fpn(5)
    config.model.mask_head = None
    presets.use_torchvision_input(config.model)
    settings = module.settings(config)
    assert not settings.MODEL.MASK_ON and settings.INPUT.FORMAT == "RGB"
    assert settings.MODEL.PIXEL_MEAN == pytest.approx([255 * x for x in config.model.image_mean])
    assert settings.MODEL.DEVICE == "cpu" and settings.MODEL.WEIGHTS == ""
    assert settings.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert "MODEL.RPN.NMS_THRESH" in detectron2_keys.FIELDS


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    module = import_detectron2()
    with pytest.raises(ImportError, match="which is no checkout of Detectron2"):
        module._add_package(tmp_path)
