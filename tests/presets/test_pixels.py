"""The scale of pixels and the order of channels of a network."""

import pytest

from maskrcnn_jax import presets


@pytest.mark.parametrize(
    "name, of_caffe, bgr",
    [
        ("detectron2_r50_fpn", True, True),
        ("detectron2_x101_32x8d_fpn", False, True),  # FAIR's, with divided pixels.
        ("detectron2_vitdet_b", False, False),
        ("mmdet_r50_fpn", False, False),
        ("mmdet_r50_caffe_fpn", True, True),
        ("mmdet_x101_32x4d_fpn", False, False),
    ],
)
def test_networks_of_caffe_read_bgr(name, of_caffe, bgr):
    model = presets.OF_OTHERS[name](4).model
    assert presets.is_of_caffe(model) == of_caffe and presets.reads_bgr(model) == bgr
    assert presets.is_of_fair(model.backbone) == (name == "detectron2_x101_32x8d_fpn")


def test_the_pixels_of_torchvision():
    model = presets.detectron2_r50_fpn(4).model
    presets.use_torchvision_input(model)
    assert not presets.is_of_caffe(model) and not model.backbone.stride_in_1x1
    torchvisions = presets.maskrcnn_resnet50_fpn(4)
    assert model.image_mean == pytest.approx(torchvisions.image_mean, abs=1e-9)
    assert model.image_std == pytest.approx(torchvisions.image_std, abs=1e-9)


def test_the_pixels_of_caffe_are_those_of_detectron2():
    """Its PIXEL_MEAN and PIXEL_STD, in the order BGR, of pixels from 0 to 255."""
    model = presets.detectron2_r50_fpn(4).model
    mean, std = ([255 * x for x in y[::-1]] for y in (model.image_mean, model.image_std))
    assert mean == pytest.approx([103.53, 116.28, 123.675]) and std == pytest.approx([1, 1, 1])
