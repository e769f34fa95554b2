"""Exported detectors give the same results; `test_model` exports the real network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.artifacts import artifact, export
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config, DataConfig, DetectionConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.weights import loading
from maskrcnn_jax.weights.report import Report
from tests.conftest import QUICK_COMPILE

CATEGORIES = Categories((3, 9, 11), ("cat", "dog", "n\u00f6tt"))
DATA = DataConfig(test_short_side=64, test_max_long_side=96, test_buckets=((64, 96), (96, 64)))


class FindsRed:
    """Detects the red pixels of an image three times as class 2, with scores from its weights."""

    def __init__(self, masks=True, run=None):
        self.config, self.masks = ModelConfig(num_classes=4), masks
        self.detection, self.run = DetectionConfig(num_detections=3), run or Execution()

    def clone(self, run):
        assert run.align_form == "by_platform", "a program must run on every platform"
        return FindsRed(self.masks, run)

    def apply(self, variables, images, sizes, canvas, score_threshold):
        red = images[..., 0] > (128 if images.dtype == np.uint8 else 0.5)
        x0, y0 = jnp.argmax(red.any(1), 1), jnp.argmax(red.any(2), 1)
        box = jnp.stack([x0, y0, x0 + red.any(1).sum(1), y0 + red.any(2).sum(1)], 1)
        boxes = jnp.repeat(box[:, None], 3, 1).astype(jnp.float32)
        scores = variables["params"]["head"]["scores"].reshape(1, 3)
        scores = scores * red.any((1, 2)).reshape(-1, 1)
        masks = jnp.ones((*scores.shape, 28, 28)) if self.masks else None
        return Detections(boxes, jnp.full(scores.shape, 2), scores, masks, scores > score_threshold)


def red_detector(masks=True, **settings):
    variables = {"params": {"head": {"scores": np.array([0.8, 0.4, 0.01], np.float32)}}}
    return Detector(FindsRed(masks), variables, CATEGORIES, DATA, **settings)


def red_image(height, width, box):
    x0, y0, x1, y1 = box
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1, 0] = 255
    return image


IMAGES = [
    red_image(128, 160, (20, 40, 100, 80)),
    red_image(160, 100, (30, 50, 60, 120)),
    red_image(64, 96, (0, 0, 0, 0)),  # This image has no object.
    red_image(70, 80, (10, 10, 70, 50)),
    red_image(96, 64, (5, 10, 40, 90)),
]


def assert_same(found, expected, boxes=1e-6, masks=1e-6, other_pixels=0.0):
    """Equal but for rounding, and for a share of the pixels of the masks."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert {name: (x.shape, x.dtype) for name, x in a.items()} == {
            name: (x.shape, x.dtype) for name, x in b.items()
        }
        assert a["labels"].tolist() == b["labels"].tolist()
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=boxes)
        np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-4)
        other = np.abs(a["masks"] - b["masks"]) > masks
        assert other.sum() <= other_pixels * other.size


@pytest.mark.slow
def test_a_real_model_finds_the_same_when_it_was_exported(tiny, tmp_path):
    data = dataclasses.replace(DATA, test_buckets=((64, 96),))
    detector = Detector(tiny.model, tiny.variables, CATEGORIES, data, batch_size=2)
    export.export(detector, tmp_path / "tiny.npz", batch_size=2)
    exported = Detector.from_artifact(tmp_path / "tiny.npz")
    for each in (detector, exported):
        each._apply = jax.jit(each.model.apply, compiler_options=QUICK_COMPILE)
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (*size, 3)).astype(np.uint8)
        for size in [(64, 96), (50, 70), (128, 180)]
    ]
    expected = detector(images, 0.3)
    assert all(len(prediction["boxes"]) > 3 for prediction in expected)
    # Corners are truncated when masks are pasted, so rounding moves a few rows by a pixel.
    assert_same(exported(images, 0.3), expected, boxes=0.01, masks=1e-3, other_pixels=1e-3)
    (nothing,) = exported(images[0], 0.999)
    assert nothing["boxes"].shape == (0, 4) and nothing["masks"].shape == (0, 1, 64, 96)


@pytest.mark.parametrize(("batch_size", "dtype"), [(1, "float32"), (3, "float32"), (2, "uint8")])
def test_batches_buckets_and_both_types_of_input(tmp_path, batch_size, dtype):
    detector = red_detector(batch_size=batch_size, dtype=dtype)
    expected = detector(IMAGES)
    assert [len(prediction["boxes"]) for prediction in expected] == [2, 2, 0, 2, 2]
    export.export(detector, tmp_path / "red.npz", batch_size=batch_size, dtype=dtype)
    exported = Detector.from_artifact(tmp_path / "red.npz")
    assert_same(exported(IMAGES), expected)
    assert_same(exported(IMAGES, 0.5, top_k=1), detector(IMAGES, 0.5, top_k=1))
    program = exported.model.program((96, 64))
    images, sizes, threshold = program.in_avals[-3:]
    assert images.shape == (batch_size, 96, 64, 3) and images.dtype == dtype
    assert sizes.shape == (batch_size, 2) and threshold.shape == ()


def test_a_detector_without_a_mask_head(tmp_path):
    detector = red_detector(masks=False)
    export.export(detector, tmp_path / "red.npz")
    exported = Detector.from_artifact(tmp_path / "red.npz")
    found, expected = exported(IMAGES), detector(IMAGES)
    for a, b in zip(found, expected, strict=True):
        assert list(a) == list(b) == ["boxes", "labels", "scores"]
        for name in a:
            np.testing.assert_allclose(a[name], b[name], atol=1e-6)
    assert exported.detect(IMAGES[0]).patches is None


def test_a_detector_of_four_channels(tmp_path):
    detector = red_detector()
    detector.model.config.image_mean = detector.model.config.image_std = (0.5,) * 4
    detector.model.clone = lambda run: detector.model
    export.export(detector, tmp_path / "red.npz")
    exported = Detector.from_artifact(tmp_path / "red.npz")
    assert exported.model.program((96, 64)).in_avals[-3].shape == (1, 96, 64, 4)
    image = np.dstack([IMAGES[0], IMAGES[0][..., :1]])
    assert_same(exported(image), detector(image))


def test_what_travels_with_the_programs(tmp_path):
    path = tmp_path / "red.npz"
    export.export(
        red_detector(), path, sizes=[(96, 96), (64, 64)], batch_size=2, score_threshold=0.5
    )
    found = artifact.read(path)
    assert found.categories == CATEGORIES and found.model.num_classes == 4
    assert found.detection == DetectionConfig(num_detections=3, score_threshold=0.5)
    assert found.data.test_buckets == ((64, 64), (96, 96)) and found.data.test_max_long_side == 96
    assert found.about == artifact.About(2, "float32", ("cpu", "cuda", "tpu"), jax.__version__)
    assert list(found.weights) == ["weights/params/head/scores"]
    exported = Detector.from_artifact(path)
    assert exported.batch_size == 2
    assert exported.model.program((64, 64)).platforms == ("cpu", "cuda", "tpu")
    assert (
        len(exported(IMAGES[0])[0]["boxes"]) == 1 and len(exported(IMAGES[0], 0.1)[0]["boxes"]) == 2
    )


def test_an_image_that_fits_no_size_is_made_smaller(tmp_path):
    export.export(red_detector(), tmp_path / "red.npz", sizes=[(64, 64), (32, 64)])
    exported = Detector.from_artifact(tmp_path / "red.npz")
    assert exported.place((640, 960)) == ((42, 64), (64, 64))
    # The image would not be larger in the other bucket.
    assert exported.place((100, 200)) == ((32, 64), (32, 64))
    (prediction,) = exported(red_image(960, 640, (100, 200, 400, 600)))
    np.testing.assert_allclose(prediction["boxes"][0], [100, 200, 400, 600], atol=15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "red.onnx"}, r"must end in \.npz"),
        ({"sizes": [(64, 64), (100, 64)]}, "multiples of 32, got 100x64; near it is 96x64"),
        ({"sizes": [(0, 64)]}, "got 0x64; near it is 32x64"),
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"dtype": "float16"}, "float32, uint8, got 'float16'"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(tmp_path, arguments, message):
    arguments = {"path": "red.npz"} | arguments
    with pytest.raises(ValueError, match=message):
        export.export(red_detector(), tmp_path / arguments.pop("path"), **arguments)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch, capsys):
    detector, report = red_detector(), Report("run", None, "a stand-in", {}, 0)
    loaded = loading.LoadedModel(
        Config(model=detector.model.config), detector.variables, CATEGORIES, report
    )
    monkeypatch.setattr(loading, "load", lambda weights: loaded)
    monkeypatch.setattr(Detector, "from_loaded", lambda loaded: detector)
    path = tmp_path / "red.npz"
    command = ["export", "--weights", "run", str(path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "a stand-in" in printed and str(path) in printed and "64x96, 96x64" in printed
    assert main(command) == 0  # Its own file is written again.

    path.write_bytes(b"another file")
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err and path.read_bytes() == b"another file"

    options = [
        "--size",
        "32x64",
        "--size",
        "64x64",
        "--batch",
        "4",
        "--input",
        "uint8",
        "--score-threshold",
        "0.9",
    ]
    assert main([*command, "--force", *options]) == 0
    found = artifact.read(path)
    assert list(found.programs) == [(32, 64), (64, 64)] and found.about[:2] == (4, "uint8")
    assert found.detection.score_threshold == 0.9


def test_an_artifact_is_no_weight_file(tmp_path):
    export.export(red_detector(), tmp_path / "red.npz")
    with pytest.raises(ValueError, match=r"red\.npz .* --artifact"):
        loading.load(tmp_path / "red.npz")
