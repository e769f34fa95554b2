"""The detector with a stand-in for the model, which detects the red rectangle of an image."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec

from maskrcnn_jax import resizing, visualize
from maskrcnn_jax.config import Config, DataConfig, DetectionConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.weights import loading


class FindsRed:
    """Detects the red pixels as class 2, and again with half the score; records input shapes."""

    def __init__(self, run=None, masks=True):
        self.config, self.detection = ModelConfig(), DetectionConfig()
        self.run, self.masks, self.shapes = run or Execution(), masks, []

    def apply(self, variables, images, sizes, canvas, score_threshold):
        self.shapes.append(images.shape)
        red = images[..., 0] > 0.5
        x0, y0 = jnp.argmax(red.any(1), 1), jnp.argmax(red.any(2), 1)
        box = jnp.stack([x0, y0, x0 + red.any(1).sum(1), y0 + red.any(2).sum(1)], 1)
        boxes = jnp.repeat(box[:, None], 3, 1).astype(jnp.float32)
        scores = jnp.broadcast_to(variables["score"] * jnp.array([[1, 0.5, 0]]), boxes.shape[:2])
        valid = scores > score_threshold
        masks = jnp.ones((*scores.shape, 28, 28)) if self.masks else None
        return Detections(boxes, jnp.full(scores.shape, 2), scores, masks, valid)


def make_detector(*settings):
    data = DataConfig(test_short_side=64, test_max_long_side=96, test_buckets=((64, 96), (96, 64)))
    return Detector(
        FindsRed(*settings), {"score": jnp.float32(0.8)}, Categories((5, 9), ("a", "b")), data
    )


@pytest.fixture
def detector():
    return make_detector()


def red_image(height, width, box):
    x0, y0, x1, y1 = box
    image = np.zeros((height, width, 3), np.uint8)
    image[y0:y1, x0:x1, 0] = 255
    return image


def test_results_look_like_torchvisions(detector):
    (result,) = detector([red_image(128, 160, (20, 40, 100, 80))])
    assert {name: (array.shape, array.dtype.name) for name, array in result.items()} == {
        "boxes": ((2, 4), "float32"),
        "labels": ((2,), "int64"),
        "scores": ((2,), "float32"),
        "masks": ((2, 1, 128, 160), "float32"),
    }
    np.testing.assert_allclose(result["boxes"][0], [20, 40, 100, 80])
    np.testing.assert_allclose(result["scores"], [0.8, 0.4])
    assert result["labels"].tolist() == [2, 2]
    # A mask of ones covers its box and fades to zero within one cell around the box.
    np.testing.assert_allclose(result["masks"][0, 0, 42:78, 23:97], 1)
    assert not result["masks"][0, 0, :37].any() and not result["masks"][0, 0, :, 105:].any()


def test_nothing_above_the_threshold(detector):
    (result,) = detector([red_image(128, 160, (20, 40, 100, 80))], score_threshold=0.9)
    assert result["boxes"].shape == (0, 4) and result["masks"].shape == (0, 1, 128, 160)


def test_the_threshold_is_the_models_unless_given(detector):
    image = red_image(128, 160, (20, 40, 100, 80))
    assert len(detector.detect(image).boxes) == 2
    detector.model.detection.score_threshold = 0.45
    assert len(detector.detect(image).boxes) == 1
    assert len(detector.detect(image, 0.1).boxes) == 2


@pytest.mark.parametrize("deterministic", [False, True])
def test_one_compilation_for_each_bucket(deterministic, compilations):
    detector = make_detector(Execution(deterministic=deterministic))
    sizes = [(128, 160), (100, 130), (160, 128), (64, 64), (70, 90), (300, 200)]
    detector([red_image(*size, (10, 10, 40, 40)) for size in sizes])
    assert sorted(detector.model.shapes) == [(1, 64, 96, 3), (1, 96, 64, 3)]
    assert len(compilations) == 2


def test_an_image_that_fits_no_bucket_has_its_own_size():
    data = DataConfig(test_short_side=64, test_max_long_side=200, test_buckets=((64, 96),))
    detector = Detector(
        FindsRed(), {"score": jnp.float32(0.8)}, Categories((5, 9), ("a", "b")), data
    )
    (result,) = detector([red_image(64, 180, (100, 20, 160, 60))])
    assert detector.model.shapes == [(1, 64, 192, 3)]
    np.testing.assert_allclose(result["boxes"][0], [100, 20, 160, 60])


def test_float_and_uint8_images_agree(detector):
    image = red_image(100, 130, (20, 40, 100, 80))
    expected = detector.detect(image)
    found = detector.detect(image.astype(np.float32) / 255)
    np.testing.assert_allclose(found.boxes, expected.boxes)


def test_what_the_model_sees_is_the_resized_red_image(detector):
    seen = {}

    def apply(variables, batch, sizes, canvas, score_threshold):
        seen.update(images=batch, sizes=sizes, canvas=canvas)
        return FindsRed().apply(variables, batch, sizes, canvas, score_threshold)

    detector._apply = apply
    image = np.random.default_rng(0).integers(0, 256, (97, 120, 3)).astype(np.uint8)
    detector.detect(image)
    size = resizing.resized_size((97, 120), 64, 96)
    assert seen["sizes"].tolist() == [list(size)] and seen["canvas"].tolist() == [[64, 96]]
    np.testing.assert_array_equal(
        seen["images"][0, : size[0], : size[1]], resizing.resize(image, size)
    )
    assert not seen["images"][0, size[0] :].any() and not seen["images"][0, :, size[1] :].any()


def test_rounded_to_grey_levels_on_request(detector):
    seen = []

    def apply(variables, batch, *numbers):
        seen.append(batch)
        return FindsRed().apply(variables, batch, *numbers)

    rounded = Detector(
        FindsRed(), detector.variables, detector.categories, detector.data, dtype="uint8"
    )
    rounded._apply = detector._apply = apply
    image = np.random.default_rng(0).random((50, 70, 3))
    for each in (detector, rounded):
        each.detect(image)
    assert seen[0].dtype == np.float32 and seen[1].dtype == np.uint8
    np.testing.assert_allclose(seen[1], seen[0] * 255.0, atol=0.5 + 1e-4)


def test_batches_are_of_images_in_one_bucket_and_keep_the_order(detector):
    batched = Detector(
        FindsRed(), detector.variables, detector.categories, detector.data, batch_size=3
    )
    sizes = [(128, 160), (160, 128), (100, 130), (64, 64), (70, 90)]
    several = [red_image(*size, (5, 10, 30 + i, 60)) for i, size in enumerate(sizes)]
    expected = detector(several)
    found = batched(iter(several))
    for a, b in zip(found, expected, strict=True):
        for name in ("boxes", "labels", "scores", "masks"):
            np.testing.assert_array_equal(a[name], b[name])
    assert sorted(batched.model.shapes) == [(3, 64, 96, 3), (3, 96, 64, 3)]
    np.testing.assert_array_equal(batched.detect(several[1]).boxes, expected[1]["boxes"])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_no_images_are_refused(detector, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
        Detector(
            FindsRed(),
            detector.variables,
            detector.categories,
            detector.data,
            batch_size=batch_size,
        )


@pytest.mark.parametrize("mode", ["RGB", "L", "I", "RGBA"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(detector, mode, size):
    with pytest.raises(
        ValueError, match=f"image 0: .*at least 1x1 pixels, got {size[1]}x{size[0]}"
    ):
        detector(Image.new(mode, size))


def test_without_a_model_of_their_size_images_are_made_smaller(detector):
    data = DataConfig(test_buckets=((64, 96),))
    small = Detector(FindsRed(), detector.variables, detector.categories, data, only_buckets=True)
    (found,) = small(red_image(128, 96, (24, 32, 72, 96)))
    assert small.model.shapes == [(1, 64, 96, 3)]
    np.testing.assert_allclose(found["boxes"][0], [24, 32, 72, 96], atol=2)


def test_masks_in_three_forms_are_the_same_masks(detector):
    image = red_image(128, 160, (20, 40, 100, 80))
    (pasted,), (cropped,), (encoded,) = (
        detector(image, masks=form) for form in ("pasted", "cropped", "rle")
    )
    for name in ("boxes", "labels", "scores"):
        np.testing.assert_array_equal(pasted[name], cropped[name])
        np.testing.assert_array_equal(pasted[name], encoded[name])
    assert len(pasted["masks"]) == len(cropped["masks"]) == len(encoded["masks"]) == 2
    for mask, (patch, (y, x)), rle in zip(
        pasted["masks"][:, 0], cropped["masks"], encoded["masks"], strict=True
    ):
        assert patch.size < mask.size
        np.testing.assert_array_equal(mask[y : y + patch.shape[0], x : x + patch.shape[1]], patch)
        assert np.count_nonzero(mask) == np.count_nonzero(patch)
        expected = rle_codec.encode(np.asfortranarray(mask > 0.5, np.uint8))
        assert rle == {"size": [128, 160], "counts": expected["counts"].decode()}
    names = detector.categories.names
    drawn = visualize.draw(image, **cropped, names=names)
    np.testing.assert_array_equal(drawn, visualize.draw(image, **pasted, names=names))


def test_run_lengths_of_a_huge_image_need_no_huge_masks(detector, monkeypatch):
    image = red_image(12_000, 900, (100, 3000, 800, 9000))

    def zeros(shape, *arguments):
        assert np.prod(shape) < image.size, f"an array of {shape} was made"
        return np.zeros(shape, *arguments)

    monkeypatch.setattr("maskrcnn_jax.pasting.np", SimpleNamespace(**vars(np) | {"zeros": zeros}))
    (prediction,) = detector(image, masks="rle")
    assert rle_codec.area(prediction["masks"][0]) == pytest.approx(700 * 6000, rel=0.1)


def test_no_memory_for_pasted_masks_says_what_to_do(detector, monkeypatch):
    image = red_image(128, 160, (20, 40, 100, 80))

    def zeros(shape, *arguments):
        if np.prod(shape) >= 128 * 160:
            raise MemoryError
        return np.zeros(shape, *arguments)

    monkeypatch.setattr("maskrcnn_jax.pasting.np", SimpleNamespace(**vars(np) | {"zeros": zeros}))
    with pytest.raises(MemoryError, match='2 masks of 128x160 .* masks="rle"'):
        detector(image)


def test_one_image_or_many_of_any_kind(detector, tmp_path):
    image = red_image(128, 160, (20, 40, 100, 80))
    Image.fromarray(image).save(tmp_path / "a.png")
    (expected,) = detector([image])
    many = np.stack([image, image])
    kinds = [
        image,
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        Image.fromarray(image),
        jnp.asarray(image),
    ]
    given = [(kind, 1) for kind in kinds]
    given += [(kinds, len(kinds)), (tuple(kinds), len(kinds)), (iter(kinds), len(kinds)), (many, 2)]
    for several, count in given:
        predictions = detector(several)
        assert len(predictions) == count
        for prediction in predictions:
            np.testing.assert_array_equal(prediction["boxes"], expected["boxes"])
    assert detector([]) == []


def test_thresholds_and_numbers_do_not_compile_again(detector):
    image = red_image(128, 160, (20, 40, 100, 80))
    # The empty slot has the score 0, which exceeds the threshold -1.
    for threshold, count in ((0, 2), (0.5, 1), (np.float64(0.3), 2), (-1, 3), (1, 0)):
        assert len(detector.detect(image, threshold).boxes) == count
    for top_k, count in ((1, 1), (2, 2), (3, 3), (100, 3)):
        assert len(detector.detect(image, -1, top_k).boxes) == count
    np.testing.assert_allclose(detector(image, top_k=1)[0]["scores"], [0.8])
    detector(image, masks="rle")
    assert len(detector.model.shapes) == 1


def test_threads_share_a_detector(detector):
    boxes = [(8 * i, 4 * i, 8 * i + 60, 4 * i + 40) for i in range(8)]
    several = [red_image(128, 160, box) for box in boxes]
    barrier = Barrier(len(several), timeout=60)

    def detect(image):
        barrier.wait()  # All threads make their first call at once.
        return [
            detector(image, score_threshold, masks="rle")[0] for score_threshold in (0.1, 0.6) * 5
        ]

    with ThreadPoolExecutor(len(several)) as threads:
        results = list(threads.map(detect, several))
    for box, predictions in zip(boxes, results, strict=True):
        assert [len(prediction["boxes"]) for prediction in predictions] == [2, 1] * 5
        for prediction in predictions:
            np.testing.assert_allclose(prediction["boxes"][0], box)
    assert len(detector.model.shapes) == 1


GREY = np.random.default_rng(0).integers(0, 256, (60, 90)).astype(np.uint8)
COLOR = np.repeat(GREY[:, :, None], 3, 2)


@pytest.mark.parametrize(
    "image",
    [
        GREY,
        GREY[:, :, None],
        np.dstack([COLOR, GREY]),
        COLOR.astype(np.uint16) * 257,
        GREY.astype(np.uint16) * 257,
        COLOR / 255,
        COLOR.astype(np.float16) / 255,
        COLOR[::-1][::-1],
        np.asfortranarray(COLOR),
        jnp.asarray(COLOR),
        Image.fromarray(COLOR),
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY.astype(np.uint16) * 257),
        Image.fromarray(np.dstack([COLOR, GREY])),
    ],
    ids=lambda image: (
        f"{type(image).__name__}-{getattr(image, 'mode', getattr(image, 'dtype', ''))}"
    ),
)
def test_every_kind_of_image_is_seen_alike(detector, image):
    seen = []

    def apply(variables, batch, *numbers):
        seen.append(batch)
        return FindsRed().apply(variables, batch, *numbers)

    detector._apply = apply
    detector([COLOR, image])
    np.testing.assert_allclose(seen[1], seen[0], atol=3e-4)


def test_tiny_and_long_images(detector):
    for size in [(1, 1), (10, 10), (2, 12_000), (12_000, 100), (100, 12_000), (3, 3)]:
        for masks in ("pasted", "cropped", "rle"):
            (prediction,) = detector(
                np.full((*size, 3), 255, np.uint8), score_threshold=0.1, masks=masks
            )
            assert len(prediction["boxes"]) == len(prediction["masks"]) == 2
            np.testing.assert_allclose(prediction["boxes"], [[0, 0, *size[::-1]]] * 2, rtol=1e-6)


def broken(dtype, value):
    image = np.zeros((10, 12, 3), dtype)
    image[0, 0, 0] = value
    return image


@pytest.mark.parametrize(
    "image, message",
    [
        (
            np.zeros((3, 50, 60), np.uint8),
            r"got \(3, 50, 60\): if that is \(C, H, W\), give image.transpose",
        ),
        (np.zeros((1, 50, 60), np.float32), r"\(1, 50, 60\): if that is \(C, H, W\)"),
        (np.zeros((10, 10, 2), np.uint8), r"expected .* \(H, W, 3\) .* got \(10, 10, 2\)"),
        (np.zeros(12, np.uint8), r"got \(12,\)"),
        ([np.zeros((1, 9, 9, 3), np.uint8)], "got .*: give one image after the other"),
        (np.zeros((0, 9, 3), np.uint8), "it has no pixels"),
        (np.zeros((9, 0, 3), np.uint8), "it has no pixels"),
        (np.zeros((9, 0), np.uint8), "it has no pixels"),
        (broken(np.float32, 255), "got 0.0 to 255.0: divide by 255"),
        (broken(np.float64, 1e6), "got 0.0 to 1000000.0: scale"),
        (broken(np.float32, -1.5), "got -1.5 to 0.0: leave out any normalisation"),
        (broken(np.float32, np.nan), "1 values are NaN or infinite"),
        (broken(np.float32, np.inf), "1 values are NaN or infinite"),
        (broken(np.int64, 255), "got int64: if its pixels are 0 to 255, convert it, as uint8"),
        (broken(np.int8, 1), "got int8"),
        (broken(bool, True), "got bool: multiply it by 255, as uint8"),
        (broken(np.complex64, 1), "got complex64"),
        (Image.fromarray(np.full((9, 9), 2, np.float32)), "floating-point pixels from 2 to 2"),
        ([None], "a path or a Pillow image, got NoneType"),
        ([{"image": 1}], "got dict"),
        ({"image": COLOR}, "a path or a Pillow image, got dict"),
        (b"\x89PNG", "got bytes: images.decode_image reads the content of a file"),
        ([bytearray(b"\x89PNG")], "got bytearray: images.decode_image"),
        (None, "a list of these, got NoneType"),
        (5, "a list of these, got int"),
    ],
)
def test_what_is_no_image_is_refused_with_advice(detector, image, message):
    with pytest.raises(ValueError, match=message):
        detector(image)


def test_a_wrong_image_among_others_is_counted(detector):
    with pytest.raises(ValueError, match="image 2: expected .* got int32"):
        detector([COLOR, GREY, GREY.astype(np.int32)])


def test_unreadable_paths_are_named(detector, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for path, message in [
        ("text.png", "it is text"),
        ("none.png", "No such file"),
        (".", "directory"),
    ]:
        with pytest.raises(OSError, match=message) as error:
            detector([COLOR, tmp_path / path])
        assert str(tmp_path / path) in str(error.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"masks": "full"}, '"pasted", "cropped" or "rle", got \'full\''),
        ({"score_threshold": "0.5"}, "score_threshold must be a number, got '0.5'"),
        ({"top_k": 101}, "from 1 to 100, .* got 101"),
    ],
)
def test_wrong_arguments_are_refused(detector, monkeypatch, arguments, message):
    # Annotations are only checked in tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        detector([COLOR], **arguments)


def test_without_a_mask_head_there_are_no_masks():
    """As torchvision's Faster R-CNN returns it; what draws takes the prediction as it is."""
    detector, image = make_detector(None, False), red_image(128, 160, (20, 40, 100, 80))
    for form in ("pasted", "cropped", "rle"):
        (prediction,) = detector(image, masks=form)
        assert list(prediction) == ["boxes", "labels", "scores"]
        np.testing.assert_allclose(prediction["boxes"][0], [20, 40, 100, 80])
    assert detector.detect(image).patches is None
    drawn = visualize.draw(image, **prediction, names=detector.categories.names)
    assert (drawn != image).any()


class TestFourChannels:
    """A model with another number of channels takes arrays and files that have them."""

    @pytest.fixture
    def detector(self):
        detector = make_detector()
        detector.model.config = ModelConfig(image_mean=(0.5,) * 4, image_std=(1.0,) * 4)
        return detector

    def test_arrays_with_as_many_channels_are_detected_in(self, detector):
        image = np.dstack([red_image(128, 160, (20, 40, 100, 80)), np.zeros((128, 160), np.uint8)])
        (expected,) = detector(image)
        np.testing.assert_allclose(expected["boxes"][0], [20, 40, 100, 80])
        assert detector.model.shapes == [(1, 64, 96, 4)]
        np.testing.assert_allclose(detector.detect(image / 255).boxes, expected["boxes"])

    @pytest.mark.parametrize(
        "image, message",
        [
            (np.zeros((9, 9, 3), np.uint8), "image 0: it has 3 channels; expected 4"),
            (np.zeros((0, 9, 4), np.uint8), r"shape \(H, W, 4\), .*got \(0, 9, 4\)"),
            (np.zeros((9, 9, 4), np.int32), "pixels of type int32: save it as uint8"),
            (np.full((9, 9, 4), 2.0), r"in \[0, 1\], got 2.0 to 2.0"),
            (np.full((9, 9, 4), np.nan), "got nan to nan"),
        ],
    )
    def test_others_are_refused(self, detector, image, message):
        with pytest.raises(ValueError, match=message):
            detector(image)

    def test_files_are_read_with_them(self, detector, tmp_path):
        image = np.dstack([red_image(128, 160, (20, 40, 100, 80)), np.zeros((128, 160), np.uint8)])
        for name in ("a.png", "a.npy"):
            path = tmp_path / name
            Image.fromarray(image).save(path) if name == "a.png" else np.save(path, image)
            np.testing.assert_allclose(detector(path)[0]["boxes"][0], [20, 40, 100, 80])
        np.save(tmp_path / "b.npy", image[:, :, :2])
        with pytest.raises(OSError, match="b.npy: it has 2 channels; expected 4"):
            detector(tmp_path / "b.npy")

    def test_floating_point_has_any_range_if_the_data_had(self, detector):
        detector.data.image_dtype = "float32"
        image = np.zeros((128, 160, 4), np.float32)
        image[40:80, 20:100, 0] = 5000
        image[:, :, 3] = -3
        assert len(detector.detect(image).boxes)
        image[0, 0, 0] = np.inf
        with pytest.raises(ValueError, match="1 of 81920 values are NaN, infinite"):
            detector(image)
        with pytest.raises(ValueError, match="dtype has to be float32, since data.image_dtype"):
            Detector(detector.model, {}, detector.categories, detector.data, dtype="uint8")


def test_loaded_variables_are_freed_on_the_way_to_the_device():
    def load():
        params = {"conv1": {"kernel": np.arange(3, dtype=np.float32)}}
        variables = {"params": {"backbone": params}, "constants": {}}
        return loading.LoadedModel(Config(), variables, None, None)

    kept, emptied = load(), load()
    detectors = Detector.from_loaded(kept), Detector.from_loaded(emptied, consume=True)
    assert kept.variables["params"] and emptied.variables == {}
    for detector in detectors:
        kernel = detector.variables["params"]["backbone"]["conv1"]["kernel"]
        assert isinstance(kernel, jax.Array)
        np.testing.assert_array_equal(kernel, [0, 1, 2])


def test_the_largest_variables_go_to_the_device_first(monkeypatch):
    sizes, device_put = [], jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x: sizes.append(x.size) or device_put(x))
    params = {name: np.zeros(size, np.float32) for name, size in (("a", 1), ("b", 9), ("c", 4))}
    loaded = loading.LoadedModel(Config(), {"params": params}, None, None)
    found = Detector.from_loaded(loaded, consume=True).variables["params"]
    assert sizes == [9, 4, 1] and [found[name].size for name in "abc"] == [1, 9, 4]
