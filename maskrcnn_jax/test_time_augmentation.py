"""Test-time augmentation: detects objects in rescaled and mirrored views and merges them.

The rule is that of Detectron2. Non-maximum suppression for each class merges the boxes of all
views. Every view then predicts a mask in each remaining box, and the probabilities are averaged. A
model without a mask head gives boxes only.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from maskrcnn_jax import detections, pasting, resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.structures import Detections

SCALES = (0.75, 1.0, 1.25)


class AugmentedDetector(Detector):
    """A detector that runs on several views of every image and merges the results.

    The interface is that of `Detector`; the time grows with the number of views. A score is the
    highest of all views, so more detections exceed a threshold than without augmentation. The
    features of all views stay in memory until the masks are predicted: 0.1 GB for each view of
    800x1344 pixels with a ResNet-50.

    Args:
        detector: The detector to augment. Its settings are kept, but views pass through the model
            one at a time, whatever the batch size. Detectors of exported artifacts are not
            supported.
        scales: Scales of the views, relative to the detector's own sizes.
        flip: Whether each view is also mirrored.

    Raises:
        ValueError: The detector comes from an artifact, or a scale is not positive.
    """

    def __init__(
        self, detector: Detector, scales: Sequence[float | int] = SCALES, flip: bool = True
    ) -> None:
        model = detector.model
        if not hasattr(model, "draw_masks"):
            raise ValueError(
                "an exported artifact cannot draw masks in given boxes: augment with --weights"
            )
        if not scales or not min(scales) > 0:
            raise ValueError(f"scales must be one or more positive numbers, got {scales}")
        parts = model, detector.variables, detector.categories
        settings: dict[str, Any] = {
            "dtype": detector.dtype.name,
            "only_buckets": detector.only_buckets,
        }
        super().__init__(*parts, detector.data, batch_size=detector.batch_size, **settings)
        sized = [Detector(*parts, _scaled(detector.data, scale), **settings) for scale in scales]
        directions = (False, True) if flip else (False,)
        self._views = [(view, mirrored) for view in sized for mirrored in directions]
        self._find_boxes = model.run.jit(partial(_find_boxes, model))
        self._draw_masks = model.run.jit(partial(model.apply, method="draw_masks"))
        self._merge = model.run.jit(partial(detections.keep_best, config=model.detection))

    def detect_batch(
        self,
        batch: Sequence[np.ndarray],
        score_threshold: float | int | None = None,
        top_k: int | None = None,
    ) -> list[pasting.ImageDetections]:
        """Detects the objects of each image separately."""
        threshold, top_k = self._checked(score_threshold, top_k)
        results = []
        for image in batch:
            best = jax.tree.map(lambda x: x[:top_k], self._look(image, threshold))
            size = image.shape[:2]
            results.append(pasting.to_original(best, size, size, self.model.detection))
        return results

    def _look(self, image: np.ndarray, threshold: np.float32) -> Detections:
        """Returns the merged detections of all views, in pixels of the image."""
        views = [_view(image, view, mirrored) for view, mirrored in self._views]
        outputs = [self._find_boxes(self.variables, *view.inputs, threshold) for view in views]
        pyramids = [pyramid for pyramid, _ in outputs]
        found = jax.device_get([boxes for _, boxes in outputs])
        boxes = [view.to_image(one.boxes[0]) for view, one in zip(views, found, strict=True)]
        classes = np.concatenate([one.classes[0] for one in found])
        scores = np.concatenate([one.scores[0] for one in found])
        valid = np.concatenate([one.valid[0] for one in found])
        merged = jax.device_get(self._merge(np.concatenate(boxes), classes, scores, valid))
        if self.model.config.mask_head is None:
            return merged
        masks = []
        for view, pyramid in zip(views, pyramids, strict=True):
            masks.append(self._masks_of(view, pyramid, merged))
        return merged._replace(masks=np.mean(masks, axis=0))

    def _masks_of(
        self, view: "_View", pyramid: Any, merged: Detections
    ) -> Float32[np.ndarray, "d m m"]:
        """Predicts the masks of the merged boxes from the features of one view."""
        boxes = view.from_image(np.asarray(merged.boxes))
        given = merged._replace(boxes=jnp.asarray(boxes))
        given = jax.tree.map(lambda x: x[None], given)
        masks = np.asarray(self._draw_masks(self.variables, pyramid, given, view.inputs[2]))[0]
        return masks[:, :, ::-1] if view.mirrored else masks


class _View(NamedTuple):
    """A resized, possibly mirrored image."""

    inputs: tuple[np.ndarray, np.ndarray, np.ndarray]  # Model inputs: images, sizes, canvas.
    factor: Float32[np.ndarray, " 4"]  # Scale from boxes of the view to boxes of the image.
    width: int  # Width of the view, in pixels.
    mirrored: bool

    def to_image(self, boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
        """Maps boxes from pixels of the view to pixels of the image."""
        boxes = _mirror(boxes, self.width) if self.mirrored else boxes
        return boxes * self.factor.reshape(1, 4)

    def from_image(self, boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
        """The inverse of `to_image`."""
        boxes = boxes / self.factor.reshape(1, 4)
        return _mirror(boxes, self.width) if self.mirrored else boxes


def _view(image: np.ndarray, detector: Detector, mirrored: bool) -> _View:
    size, bucket = detector.place(image.shape[:2])
    padded, sizes, canvas = detector.pad([image], [size], bucket)
    if (
        mirrored
    ):  # Mirror after resizing, so that the inputs of both views mirror each other exactly.
        padded[0, : size[0], : size[1]] = resizing.mirror(padded[0, : size[0], : size[1]])
    factor = np.array(image.shape[:2], np.float32) / np.array(size, np.float32)
    return _View((padded, sizes, canvas), factor[[1, 0, 1, 0]], size[1], mirrored)


def _mirror(boxes: Float32[np.ndarray, "n 4"], width: int) -> Float32[np.ndarray, "n 4"]:
    x0, y0, x1, y1 = boxes.T
    return np.stack([width - x1, y0, width - x0, y1], 1)


def _scaled(data: DataConfig, scale: float | int) -> DataConfig:
    """Multiplies the sizes and buckets of a config by ``scale``."""
    buckets = []
    for height, width in data.test_buckets:
        buckets.append(resizing.ceil32((round(height * scale), round(width * scale))))
    return dataclasses.replace(
        data,
        test_short_side=max(round(data.test_short_side * scale), 1),
        test_max_long_side=max(round(data.test_max_long_side * scale), 1),
        test_buckets=tuple(buckets),
    )


def _find_boxes(
    model: Any, variables: Any, images: Array, *numbers: Array
) -> tuple[Any, Detections]:
    """Returns the feature pyramid of a view, and its detections without masks.

    ``numbers`` are sizes, canvas and score threshold.
    """
    sizes, canvas, threshold = numbers
    pyramid = model.apply(variables, images, sizes, canvas, method="features")
    found = model.apply(variables, pyramid, sizes, canvas, threshold, method="detect_boxes")
    return pyramid, found
