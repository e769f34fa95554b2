"""The settings of a model as MMDetection's; test_live_families.py compares the models."""

import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")

from maskrcnn_jax import presets  # noqa: E402
from maskrcnn_jax.weights import mmdetection  # noqa: E402
from maskrcnn_jax.weights.torchvision_resnet import COUNTER  # noqa: E402
from tests.parity.test_live_families import import_mmdetection  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "mmdet_r50_fpn",
        "mmdet_x101_64x4d_fpn",
        "mmdet_r50_fpn_gn",
        "mmdet_r50_caffe_fpn",
        "mmdet_r50_caffe_c4",
        "mmdet_cascade_r50_fpn",
    ],
)
def test_its_model_has_the_arrays_of_ours(name):
    module = import_mmdetection()
    config = presets.OF_OTHERS[name](5)
    with module.torch.device("meta"):  # Shapes alone.
        model = module.MODELS.build(module.settings(config).model)
    found = {k: tuple(x.shape) for k, x in model.state_dict().items()}
    found = {k: shape for k, shape in found.items() if not k.endswith(COUNTER)}
    assert found == {x.name: x.shape for x in mmdetection.entries(config.model)}


def test_rules_of_a_config_reach_its_model():
    module = import_mmdetection()
    config = presets.mmdet_r50_fpn(5)
    config.model.rpn.nms_threshold, config.detection.num_detections = 0.625, 50
    config.model.image_mean = (0.1, 0.2, 0.3)
    model = module.settings(config).model
    assert model.test_cfg.rpn.nms.iou_threshold == 0.625
    assert model.test_cfg.rcnn.max_per_img == 50
    assert model.data_preprocessor.mean == pytest.approx([25.5, 51, 76.5])
    assert model.data_preprocessor.bgr_to_rgb and model.roi_head.bbox_head.num_classes == 4


def test_a_model_without_masks():
    module = import_mmdetection()
    for build, kind in (
        (presets.mmdet_r50_fpn, "FasterRCNN"),
        (presets.mmdet_cascade_r50_fpn, "CascadeRCNN"),
    ):
        config = build(5)
        config.model.mask_head = None
        model = module.settings(config).model
        assert model.type == kind and "mask_head" not in model.roi_head


def test_results_of_methods_are_recorded_and_the_methods_put_back():
    module = import_mmdetection()

    class Found:
        bboxes = module.torch.zeros(2, 4)

    class Part:
        def predict(self):
            return [Found()]

        predict_bbox = predict

    rpn, heads, outputs = Part(), Part(), {}
    with module._results(outputs, rpn, heads):
        found = rpn.predict()
        found[0].bboxes += 1  # As the mask head does later.
    assert outputs["proposals"][0].sum() == 0 and "detected" not in outputs
    assert "predict" not in vars(rpn) and "predict_bbox" not in vars(heads)
