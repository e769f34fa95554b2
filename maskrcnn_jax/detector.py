"""From pictures of any size to boxes, labels, scores and masks in their own pixels."""

import itertools
import os
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from PIL import Image

from maskrcnn_jax import compiler, images, pasting
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.structures import Detections

if TYPE_CHECKING:
    from maskrcnn_jax.weights.loading import LoadedModel

MaskForm = Literal["pasted", "cropped", "rle"]


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
        batch_size: Pictures that go through the model at once, if they share a bucket. A GPU is busy with several.
        dtype: Of the pictures the model is given: "float32", or "uint8", which rounds resized pictures to grey levels.
            That moves most boxes by more than 0.05 pixels.
        only_buckets: There is no model of other sizes: pictures that fit no bucket are made smaller until they do.

    Raises:
        ValueError: The batch size is below 1.
    """

    def __init__(
        self,
        model: Any,
        variables: Any,
        categories: Categories,
        data: DataConfig | None = None,
        *,
        batch_size: int = 1,
        dtype: str = "float32",
        only_buckets: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model, self.variables, self.categories = model, variables, categories
        self.data = data or DataConfig()
        self.batch_size, self.dtype, self.only_buckets = batch_size, np.dtype(dtype), only_buckets
        self._apply = compiler.jit(model.config.deterministic)(model.apply)

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

    @classmethod
    def from_artifact(cls, path: str | Path) -> "Detector":
        """Runs a file that `export.export` or `maskrcnn-jax export` wrote, without flax or the code of the model.

        Pictures that fit none of its sizes are made smaller until they do.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is something else, or damaged; the message names it.
        """
        from maskrcnn_jax import artifact  # Only artifacts need jax.export.

        found = artifact.read(path)
        settings = {"batch_size": found.about.batch_size, "dtype": found.about.dtype, "only_buckets": True}
        weights = jax.device_put(found.weights)
        return cls(artifact.ExportedModel(found), weights, found.categories, found.data, **settings)

    def __call__(
        self,
        pictures: images.Picture | Iterable[images.Picture],
        score_threshold: float | int | None = None,
        top_k: int | None = None,
        *,
        masks: MaskForm = "pasted",
    ) -> list[dict[str, Any]]:
        """Detects objects, and returns for each picture what torchvision returns, as NumPy arrays.

        Neither another threshold nor another number compiles the model again, and several threads may call at once.

        Args:
            pictures: One or several of any sizes: RGB arrays (H, W, 3), uint8 or float in [0, 1], and what else
                `images.as_rgb` takes; paths; or Pillow's images. An array (N, H, W, 3) is N pictures.
            score_threshold: Detections must score above it; the model's own by default. It may be lower than that.
            top_k: At most this many detections, the best; as many as the model has slots for by default.
            masks: "pasted": (N, 1, H, W) float32, probabilities, zero outside the boxes. "cropped": for each
                detection the part of that inside its box, (h, w), and the (y, x) where it starts. "rle": for each
                detection the pixels above 0.5 as COCO's compressed run lengths, ready for JSON. The last two never
                make an image for each detection, which large pictures have no memory for.

        Returns:
            A list, of one for a single picture. For each picture a dictionary, its N detections by descending score:
            ``boxes`` (N, 4) float32, x0 y0 x1 y1 in pixels of the picture; ``labels`` (N,) int64; ``scores`` (N,)
            float32; ``masks`` as asked for.

        Raises:
            OSError: A path cannot be read as a picture. The message names it.
            ValueError: A picture has another shape, type or range, or another argument is wrong. The message says what
                was given and what to do.
            MemoryError: There is no room for pasted masks.
        """
        if masks not in typing.get_args(MaskForm):
            raise ValueError(f'masks must be "pasted", "cropped" or "rle", got {masks!r}')
        predictions = []
        for batch in _batches(_loaded(pictures), self.batch_size):
            for rgb, found in zip(batch, self._detect(batch, score_threshold, top_k), strict=True):
                prediction = {"boxes": found.boxes, "labels": found.labels, "scores": found.scores}
                predictions.append(prediction | {"masks": _masks(found.patches, rgb.shape[:2], masks)})
        return predictions

    def detect(
        self, picture: images.Picture, score_threshold: float | int | None = None, top_k: int | None = None
    ) -> pasting.ImageDetections:
        """Detects the objects of one picture; each mask is a patch inside its box, which is all that is not zero.

        Arguments and errors as in `__call__`.
        """
        return self._detect([images.load(picture)], score_threshold, top_k)[0]

    def _detect(
        self, pictures: Sequence[np.ndarray], score_threshold: float | int | None, top_k: int | None
    ) -> list[pasting.ImageDetections]:
        """Detects the objects of as many pictures as go through the model at once, or fewer."""
        detection = self.model.config.detection
        threshold = checked_threshold(detection.score_threshold if score_threshold is None else score_threshold)
        top_k = checked_top_k(top_k, detection.num_detections)
        placed = [self.place(picture.shape[:2]) for picture in pictures]
        found = {}
        for bucket in dict.fromkeys(bucket for _, bucket in placed):
            members = [i for i, (_, its_bucket) in enumerate(placed) if its_bucket == bucket]
            sizes = [placed[i][0] for i in members]
            detections = self._run([pictures[i] for i in members], sizes, bucket, threshold)
            for row, i in enumerate(members):
                best = Detections(*(array[row, :top_k] for array in detections))  # They come by descending score.
                found[i] = pasting.to_original(best, sizes[row], pictures[i].shape[:2])
        return [found[i] for i in range(len(pictures))]

    def place(self, size: images.Size) -> tuple[images.Size, images.Size]:
        """The size a picture is resized to, and the bucket it is padded to."""
        resized = images.resized_size(size, self.data.test_short_side, self.data.test_max_long_side)
        try:
            return resized, images.bucket_for(resized, self.data.test_buckets)
        except ValueError:
            if self.only_buckets:
                return images.largest_fit(resized, self.data.test_buckets)
            return resized, images.ceil32(resized)

    def _run(
        self, pictures: Sequence[np.ndarray], sizes: Sequence[images.Size], bucket: images.Size, threshold: np.float32
    ) -> Detections:
        """What the model finds in pictures of one bucket, in resized pixels, as NumPy arrays."""
        # Numbers as arrays: a new size or threshold must not compile the model again.
        return jax.device_get(self._apply(self.variables, *self.pad(pictures, sizes, bucket), threshold))

    def pad(
        self, pictures: Sequence[np.ndarray], sizes: Sequence[images.Size], bucket: images.Size
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the model is given for pictures of one bucket: images, sizes and canvas; black ones fill up."""
        padded = np.zeros((self.batch_size, *bucket, 3), self.dtype)
        for place, picture, (height, width) in zip(padded, pictures, sizes, strict=False):
            resized = images.resize(picture, (height, width))
            rounded = np.rint(resized * np.float32(255)) if self.dtype == np.uint8 else resized
            place[:height, :width] = rounded
        numbers = np.array([*sizes, *[bucket] * (self.batch_size - len(sizes))], np.int32)
        canvas = np.array([images.ceil32(size) for size in numbers], np.int32)
        return padded, numbers, canvas


def _loaded(pictures: Any) -> Iterator[np.ndarray]:
    for position, picture in enumerate(_as_several(pictures)):
        try:
            yield images.load(picture)
        except ValueError as error:
            raise ValueError(f"picture {position}: {error}") from error


def _batches(pictures: Iterator[np.ndarray], count: int) -> Iterator[list[np.ndarray]]:
    while batch := list(itertools.islice(pictures, count)):
        yield batch


def _as_several(pictures: Any) -> Iterable[Any]:
    single = isinstance(pictures, str | os.PathLike | Image.Image | bytes | bytearray | Mapping)  # Some are refused.
    if single or getattr(pictures, "ndim", 4) < 4:
        return [pictures]
    if not hasattr(pictures, "__iter__"):
        raise ValueError(
            f"expected an array, a path, a Pillow image, or a list of these, got {type(pictures).__name__}"
        )
    return pictures


def checked_threshold(threshold: float | int) -> np.float32:
    """A threshold as the model takes it. Raises ValueError if it is no number."""
    if not _is_scalar(threshold, "iuf"):
        raise ValueError(f"score_threshold must be a number, got {threshold!r}")
    if not threshold == threshold:
        raise ValueError("score_threshold is NaN: give a number, 0 for all detections")
    return np.float32(threshold)


def checked_top_k(top_k: int | None, slots: int) -> int:
    """How many detections to keep, all slots by default. Raises ValueError for more than there are, or none."""
    if top_k is not None and not _is_scalar(top_k, "iu"):
        raise ValueError(f"top_k must be a whole number, got {top_k!r}")
    if top_k is not None and not 1 <= top_k <= slots:
        raise ValueError(
            f"top_k must be from 1 to {slots}, the model's detection.num_detections, got {top_k}; "
            "for more, build the model with more of them"
        )
    return slots if top_k is None else top_k


def _is_scalar(value: Any, kinds: str) -> bool:
    """Whether it is one number, of Python, NumPy or jax, of the kinds that NumPy's dtypes name by these letters."""
    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind in kinds


def _masks(patches: list[tuple[np.ndarray, tuple[int, int]]], size: tuple[int, int], form: MaskForm) -> Any:
    """The masks of a picture of ``size`` (height, width) in the form that was asked for."""
    if form == "cropped":
        return patches
    if form == "rle":
        return [pasting.encode(patch, offset, size) for patch, offset in patches]
    try:
        pasted = np.zeros((len(patches), 1, *size), np.float32)
    except MemoryError as error:
        gigabytes = len(patches) * size[0] * size[1] * 4 / 1e9
        message = f'{len(patches)} masks of {size[0]}x{size[1]} take {gigabytes:.0f} GB: ask for masks="rle" or fewer'
        raise MemoryError(message) from error
    for mask, (patch, (y, x)) in zip(pasted, patches, strict=True):
        mask[0, y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return pasted
