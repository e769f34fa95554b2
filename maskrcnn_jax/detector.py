"""Detects objects in images of any size; boxes and masks are in pixels of the original image."""

import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from maskrcnn_jax import detector_inputs, execution, images, pasting, resizing
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.images import AnyImage
from maskrcnn_jax.pasting import MaskForm
from maskrcnn_jax.structures import Detections

if TYPE_CHECKING:
    from maskrcnn_jax.tiling.detector import TiledDetector
    from maskrcnn_jax.weights.loading import LoadedModel


class Detector:
    """Wraps a model with its pre- and postprocessing: resizing, padding, and pasting of masks.

    Each image is padded to the smallest bucket that holds it, and the model is compiled once for
    each bucket. An image that fits no bucket, because it is unusually long or wide, is padded to
    multiples of 32, and the model is compiled for that size.

    Args:
        model: A `MaskRCNN`, or a stand-in such as `artifact.ExportedModel`.
        variables: The variables of the model.
        categories: The map from labels to categories.
        data: Gives ``test_short_side``, ``test_max_long_side``, ``test_buckets``, ``size_rule``,
            ``resize`` and ``image_dtype``. The default is torchvision's rule for COCO.
        batch_size: Number of images of one bucket that the model processes at once. A GPU needs
            several to be busy.
        dtype: The dtype of the model's input images: "float32", or "uint8", which rounds resized
            images to 8 bits and moves most boxes by more than 0.05 pixels.
        only_buckets: Whether images that fit no bucket are made smaller until they fit, because the
            model exists for the sizes of the buckets only.

    Raises:
        ValueError: The batch size is below 1, or the dtype does not hold the pixels.
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
        if dtype == "uint8" and data is not None and data.image_dtype != "uint8":
            raise ValueError(
                f"dtype has to be float32, since data.image_dtype is {data.image_dtype}"
            )
        self.model, self.variables, self.categories = model, variables, categories
        self.data = data or DataConfig()
        self.batch_size, self.dtype, self.only_buckets = batch_size, np.dtype(dtype), only_buckets
        self._apply = model.run.jit(model.apply)

    @classmethod
    def from_run(cls, directory: str | Path) -> "Detector":
        """Loads the last checkpoint of a training run, with its config and categories.

        Raises:
            FileNotFoundError: The run directory does not exist or has no checkpoint.
            ValueError: A file in the run directory is broken.
        """
        # These imports load Orbax and the training code, which only runs need.
        from maskrcnn_jax.model import MaskRCNN
        from maskrcnn_jax.runs import run_directory

        run = run_directory.load_run(directory)
        model = MaskRCNN(
            run.config.model, run.config.detection, execution.choose(run.config.execution)
        )
        return cls(model, run.variables, run.categories, run.config.data)

    @classmethod
    def from_weights(
        cls,
        weights: str | Path,
        *,
        preset: str | Config | None = None,
        channel_order: str | None = None,
    ) -> "Detector":
        """Loads a weight file, a run directory, or a release.

        Files are those of this package, torchvision, Detectron2 and MMDetection. The architecture
        comes from the config in the file, or else from the names and shapes of the arrays. A file
        without a mask head is a Faster R-CNN, whose detections have no masks.

        Args:
            weights: A path; "COCO_V1" or "V2_COCO_V1", torchvision's weights of
                `maskrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn_v2`; or a name such as
                "detectron2:mask_rcnn_R_50_FPN_3x" or "mmdet:mask-rcnn_r50_fpn_1x_coco". Released
                weights are downloaded once.
            preset: For files of Detectron2 and MMDetection, as in `weights.loading.load`.
            channel_order: As in `weights.loading.load`.

        Raises:
            OSError: The file does not exist or cannot be downloaded.
            ValueError: The file is broken or holds no such detector; the message names the file and
                every error.
        """
        from maskrcnn_jax.weights import loading

        loaded = loading.load(weights, preset=preset, channel_order=channel_order)
        return cls.from_loaded(loaded, consume=True)

    @classmethod
    def from_loaded(cls, loaded: "LoadedModel", *, consume: bool = False) -> "Detector":
        """Makes a detector of a model that `loading.load` returned.

        If the categories are unknown, they are numbered; see `Categories.numbered`. With
        ``consume`` the loaded variables are emptied on the way, which saves memory.
        """
        from maskrcnn_jax.model import MaskRCNN

        config = loaded.config
        categories = loaded.categories or Categories.numbered(config.model.num_classes - 1)
        # Transfer once instead of for each image.
        transfer = _move_to_device if consume else jax.device_put
        variables = transfer(loaded.variables)
        model = MaskRCNN(config.model, config.detection, execution.choose())
        return cls(model, variables, categories, config.data)

    @classmethod
    def from_artifact(cls, path: str | Path) -> "Detector":
        """Loads a file that `export.export` or `maskrcnn-jax export` wrote, without flax.

        Images that fit none of the exported sizes are made smaller until they fit.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is damaged or not an artifact; the message names it.
        """
        from maskrcnn_jax.artifacts import artifact  # Only artifacts need jax.export.

        found = artifact.read(path)
        model = artifact.ExportedModel(found)
        return cls(
            model,
            jax.device_put(found.weights),
            found.categories,
            found.data,
            batch_size=found.about.batch_size,
            dtype=found.about.dtype,
            only_buckets=True,
        )

    def __call__(
        self,
        images: AnyImage | Iterable[AnyImage],
        score_threshold: float | int | None = None,
        top_k: int | None = None,
        *,
        masks: MaskForm = "pasted",
    ) -> list[dict[str, Any]]:
        """Detects objects and returns torchvision's outputs for each image, as NumPy arrays.

        A new threshold or ``top_k`` does not recompile the model. Calls from several threads are
        safe.

        Args:
            images: One image or several, of any sizes. An image is an RGB array (H, W, 3), uint8 or
                float in [0, 1], or another array that `images.as_rgb` accepts; a path; or a Pillow
                image. An array (N, H, W, 3) is N images. A model with another number of channels
                takes arrays (H, W, channels). If its ``data.image_dtype`` is "float32",
                floating-point pixels may have any range.
            score_threshold: Keep detections that score above this number; the default is that of
                the model's config. It may be lower than the default.
            top_k: Keep at most this many detections, those of highest score; by default all slots
                of the model.
            masks: The form of the masks. "pasted": (N, 1, H, W) float32 probabilities, zero outside
                the boxes. "cropped": for each detection the part (h, w) of its pasted mask inside
                the box, and the (y, x) of its first pixel. "rle": for each detection the pixels
                above 0.5 as COCO's compressed run lengths, ready for JSON. "cropped" and "rle"
                need much less memory on large images.

        Returns:
            A list with a dictionary for each image, with N detections by descending score:
            ``boxes`` (N, 4) float32, x0 y0 x1 y1 in pixels of the image; ``labels`` (N,) int64;
            ``scores`` (N,) float32; and ``masks`` in the given form, unless the model has no mask
            head.

        Raises:
            OSError: A path cannot be read as an image. The message names the path.
            ValueError: An image has another shape, type or range, or another argument is wrong. The
                message says what was given and how to correct it.
            MemoryError: Memory does not suffice for pasted masks.
        """
        if masks not in typing.get_args(MaskForm):
            raise ValueError(f'masks must be "pasted", "cropped" or "rle", got {masks!r}')
        loaded = detector_inputs.load_each(images, self.num_channels, self.data.image_dtype)
        predictions = []
        for batch in detector_inputs.batches(loaded, self.batch_size):
            found = self.detect_batch(batch, score_threshold, top_k)
            for image, (boxes, labels, scores, patches) in zip(batch, found, strict=True):
                prediction = {"boxes": boxes, "labels": labels, "scores": scores}
                if patches is not None:
                    prediction["masks"] = pasting.in_form(patches, image.shape[:2], masks)
                predictions.append(prediction)
        return predictions

    def detect(
        self, image: AnyImage, score_threshold: float | int | None = None, top_k: int | None = None
    ) -> pasting.ImageDetections:
        """Detects the objects of one image; each mask is a patch inside its box.

        Arguments and errors as in `__call__`. Without a mask head, ``patches`` is None.
        """
        loaded = images.load(image, self.num_channels, self.data.image_dtype)
        return self.detect_batch([loaded], score_threshold, top_k)[0]

    def tiled(self, tile: int = 1024, overlap: float | int = 0.25) -> "TiledDetector":
        """Returns a detector for images larger than the network; see `TiledDetector`."""
        from maskrcnn_jax.tiling.detector import TiledDetector  # Most detectors need none.

        return TiledDetector(self, tile, overlap)

    @property
    def num_channels(self) -> int:
        """Number of channels of the model's input images."""
        return len(self.model.config.image_mean)

    def detect_batch(
        self,
        batch: Sequence[np.ndarray],
        score_threshold: float | int | None = None,
        top_k: int | None = None,
    ) -> list[pasting.ImageDetections]:
        """Detects the objects of at most ``batch_size`` images that `images.load` returned."""
        found = self.detect_resized(batch, score_threshold, top_k)
        return [
            pasting.to_original(
                each, self.place(image.shape[:2])[0], image.shape[:2], self.model.detection
            )
            for image, each in zip(batch, found, strict=True)
        ]

    def detect_resized(
        self,
        batch: Sequence[np.ndarray],
        score_threshold: float | int | None = None,
        top_k: int | None = None,
    ) -> list[Detections]:
        """As `detect_batch`, but boxes are in pixels of the resized images; `place` gives the size.

        Masks are those of the network, and padded slots remain: NumPy arrays without the axis b.
        """
        threshold, top_k = self._checked(score_threshold, top_k)
        placed = [self.place(image.shape[:2]) for image in batch]
        found = {}
        for bucket in dict.fromkeys(bucket for _, bucket in placed):
            members = [i for i, (_, other) in enumerate(placed) if other == bucket]
            sizes = [placed[i][0] for i in members]
            detections = self._run([batch[i] for i in members], sizes, bucket, threshold)
            for row, i in enumerate(members):
                # Detections come by descending score.
                found[i] = jax.tree.map(lambda x, row=row: x[row, :top_k], detections)
        return [found[i] for i in range(len(batch))]

    def compile(self, bucket: resizing.Size) -> None:
        """Compiles the model for a bucket, and runs it once on black images."""
        self._run([], [], bucket, np.float32(self.model.detection.score_threshold))

    def _checked(
        self, score_threshold: float | int | None, top_k: int | None
    ) -> tuple[np.float32, int]:
        """Returns the checked arguments, with the model's defaults. Errors as in `__call__`."""
        detection = self.model.detection
        if score_threshold is None:
            score_threshold = detection.score_threshold
        slots = detection.num_detections
        threshold = detector_inputs.checked_threshold(score_threshold)
        return threshold, detector_inputs.checked_top_k(top_k, slots)

    def place(self, size: resizing.Size) -> tuple[resizing.Size, resizing.Size]:
        """Returns the size that an image is resized to, and the bucket that it is padded to.

        Args:
            size: Height and width of the original image.
        """
        limits = self.data.test_short_side, self.data.test_max_long_side
        resized = resizing.resized_size(size, *limits, self.data.size_rule)
        try:
            return resized, resizing.bucket_for(resized, self.data.test_buckets)
        except ValueError:
            if self.only_buckets:
                return resizing.largest_fit(resized, self.data.test_buckets)
            return resized, resizing.ceil32(resized)

    def _run(
        self,
        batch: Sequence[np.ndarray],
        sizes: Sequence[resizing.Size],
        bucket: resizing.Size,
        threshold: np.float32,
    ) -> Detections:
        """Runs the model on images of one bucket. Boxes are in pixels of the resized images."""
        # Pass numbers as arrays, so that a new size or threshold does not recompile the model.
        inputs = self.pad(batch, sizes, bucket)
        return jax.device_get(self._apply(self.variables, *inputs, threshold))

    def pad(
        self, batch: Sequence[np.ndarray], sizes: Sequence[resizing.Size], bucket: resizing.Size
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Resizes and pads images to one bucket, and fills the batch with black images.

        Args:
            batch: Images (H, W, channels), uint8, or float32 whose white is 1.
            sizes: The height and width to resize each image to.
            bucket: The height and width to pad to.

        Returns:
            The inputs of the model: images [b, h, w, c], sizes [b, 2] and canvas [b, 2].
        """
        padded = np.zeros((self.batch_size, *bucket, self.num_channels), self.dtype)
        for slot, image, (height, width) in zip(padded, batch, sizes, strict=False):
            resized = resizing.resize(image, (height, width), self.data.resize)
            if self.dtype == np.uint8:
                resized = np.rint(resized * np.float32(255))
            slot[:height, :width] = resized
        numbers = np.array([*sizes, *[bucket] * (self.batch_size - len(sizes))], np.int32)
        canvases = [resizing.canvas_of(size, self.data.padding) for size in numbers]
        canvas = np.array(canvases, np.int32)
        return padded, numbers, canvas


def _move_to_device(variables: dict[str, Any]) -> dict[str, Any]:
    """Transfers nested arrays one by one, and frees each before the next: empties the dict.

    The largest come first. Small arrays leave holes in the heap, whose memory stays with the
    process; beside a copy of the largest array these would add to the peak.
    """
    arrays, structure = jax.tree.flatten(variables)
    variables.clear()
    for i in sorted(range(len(arrays)), key=lambda i: arrays[i].nbytes, reverse=True):
        arrays[i] = jax.device_put(arrays[i]).block_until_ready()
    return jax.tree.unflatten(structure, arrays)
