"""From pictures of any size to boxes, labels, scores and masks in their own pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from maskrcnn_jax import images, pasting
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.categories import Categories

if TYPE_CHECKING:
    from maskrcnn_jax.weights.loading import LoadedModel


class Detector:
    """A model with all that surrounds it: resizing, padding, and masks pasted back into the picture.

    Each picture is padded to the smallest bucket that holds it, and the model is compiled once for each bucket. A
    picture that fits none, because it is unusually long or wide, is padded to multiples of 32, and the model is
    compiled for that size.

    Args:
        model: A `MaskRCNN`.
        variables: Its parameters and constants.
        categories: What its labels mean.
        data: How to resize (``test_short_side``, ``test_max_long_side``), and the ``test_buckets``. The default is
            torchvision's rule for COCO.
    """

    def __init__(self, model: Any, variables: Any, categories: Categories, data: DataConfig | None = None) -> None:
        self.model, self.variables, self.categories = model, variables, categories
        self.data = data or DataConfig()
        self._apply = jax.jit(model.apply)

    @classmethod
    def from_run(cls, directory: str | Path) -> "Detector":
        """Loads the last checkpoint of a training run, with the sizes and categories it was trained for.

        Raises:
            FileNotFoundError: No run directory, or one without a checkpoint.
            ValueError: A file in it is broken.
        """
        # Only runs need Orbax and the training code.
        from maskrcnn_jax import checkpoints
        from maskrcnn_jax.model import MaskRCNN

        run = checkpoints.load_run(directory)
        return cls(MaskRCNN(run.config.model), run.variables, run.categories, run.config.data)

    @classmethod
    def from_weights(cls, weights: str | Path) -> "Detector":
        """Loads a weight file of torchvision's or of ours, a run directory, or released weights by their name.

        The architecture is that which a file of ours carries; else it follows from names and shapes.

        Args:
            weights: A path, "COCO_V1" or "V2_COCO_V1": torchvision's `maskrcnn_resnet50_fpn` and
                `maskrcnn_resnet50_fpn_v2`, downloaded once.

        Raises:
            OSError: No such file, or it cannot be downloaded.
            ValueError: The file is broken, or not of a Mask R-CNN; the message names it and all that is wrong.
        """
        from maskrcnn_jax.weights import loading

        return cls.from_loaded(loading.load(weights))

    @classmethod
    def from_loaded(cls, loaded: "LoadedModel") -> "Detector":
        """The detector of a model that `loading.load` returned; labels without a meaning are numbered."""
        from maskrcnn_jax.model import MaskRCNN

        config = loaded.config
        categories = loaded.categories or Categories.numbered(config.model.num_classes - 1)
        variables = jax.device_put(loaded.variables)  # Once, instead of for each picture.
        return cls(MaskRCNN(config.model), variables, categories, config.data)

    def __call__(
        self, pictures: Sequence[np.ndarray], score_threshold: float | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Detects objects, and returns for each picture what torchvision returns, as NumPy arrays.

        Args:
            pictures: RGB (H, W, 3), uint8 or float in [0, 1], of any sizes.
            score_threshold: Detections must score above it; the model's own by default.

        Returns:
            A dictionary for each picture, its N detections by descending score: ``boxes`` (N, 4) float32, x0 y0 x1 y1
            in pixels of the picture; ``labels`` (N,) int64; ``scores`` (N,) float32; ``masks`` (N, 1, H, W) float32,
            probabilities.

        Raises:
            ValueError: A picture has another shape, type or range.
        """
        results = []
        for picture in pictures:
            found = self.detect(picture, score_threshold)
            masks = np.zeros((len(found.boxes), 1, *picture.shape[:2]), np.float32)
            for mask, (patch, (y, x)) in zip(masks, found.patches, strict=True):
                mask[0, y : y + patch.shape[0], x : x + patch.shape[1]] = patch
            results.append({"boxes": found.boxes, "labels": found.labels, "scores": found.scores, "masks": masks})
        return results

    def detect(self, picture: np.ndarray, score_threshold: float | None = None) -> pasting.ImageDetections:
        """Detects the objects of one picture; each mask is a patch inside its box, which is all that is not zero.

        Arguments and errors as in `__call__`.
        """
        rgb = images.as_rgb(picture)
        original = rgb.shape[:2]
        size = images.resized_size(original, self.data.test_short_side, self.data.test_max_long_side)
        padded = np.zeros((1, *self._bucket(size), 3), np.float32)
        padded[0, : size[0], : size[1]] = images.resize(rgb, size)
        if score_threshold is None:
            score_threshold = self.model.config.detection.score_threshold
        # Numbers as arrays: a new size or threshold must not compile the model again.
        numbers = (np.array([size], np.int32), np.array([images.ceil32(size)], np.int32), np.float32(score_threshold))
        detections = jax.device_get(self._apply(self.variables, padded, *numbers))
        return pasting.to_original(jax.tree.map(lambda x: x[0], detections), size, original)

    def _bucket(self, size: tuple[int, int]) -> tuple[int, int]:
        try:
            return images.bucket_for(size, self.data.test_buckets)
        except ValueError:
            return images.ceil32(size)
