"""Our side of the comparison: runs the whole model, and records its intermediate results."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import execution, pasting, resizing
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops import anchors
from maskrcnn_jax.parity import padding
from maskrcnn_jax.parity.padding import Size
from maskrcnn_jax.parity.records import Levels, Outcome


class JaxModel:
    """A model and its weights, compiled once for each shape of a batch.

    Args:
        config: The model, detection and execution settings, and the rules for resizing images.
        variables: The weights.
        short_side: Short side of the resized images, in pixels; smaller if the long side would
            exceed ``max_long_side``.
        max_long_side: Largest long side of the resized images, in pixels.
    """

    def __init__(
        self,
        config: Config,
        variables: dict[str, Any],
        *,
        short_side: int = 800,
        max_long_side: int = 1333,
    ) -> None:
        self.config, self.variables = config, variables
        self.short_side, self.max_long_side = short_side, max_long_side
        # The buckets of `Detector` fit torchvision's default sizes; scale them to other sizes.
        scale = short_side / DataConfig().test_short_side
        self.buckets = [
            resizing.ceil32((int(height * scale), int(width * scale)))
            for height, width in DataConfig().test_buckets
        ]
        # The network of a ViT sees a square, whatever the image.
        side = getattr(config.model.backbone, "image_side", None)
        self.square: Size | None = None if side is None else (side, side)
        if self.square:
            self.buckets = [self.square]
        run = execution.choose(config.execution)
        self.model = MaskRCNN(config.model, config.detection, run)
        recording = {"capture_intermediates": _is_recorded, "mutable": ["intermediates"]}
        self._apply = run.jit(partial(self.model.apply, **recording))
        self.compiled: set[tuple[int, ...]] = set()  # Shapes of batches so far, a program each.

    def size(self, image: np.ndarray) -> Size:
        """Height and width of an image after resizing."""
        limits = self.short_side, self.max_long_side
        return resizing.resized_size(image.shape[:2], *limits, self.config.data.size_rule)

    def bucket(self, sizes: Sequence[Size]) -> Size:
        """The smallest bucket that holds these sizes, or a new one of multiples of 32."""
        size = max(height for height, _ in sizes), max(width for _, width in sizes)
        try:
            return resizing.bucket_for(size, self.buckets)
        except ValueError:
            return resizing.ceil32(size)

    def pad(self, images: Sequence[np.ndarray], bucket: Size) -> np.ndarray:
        """Pads resized images at the bottom and the right to a batch, float32 ``[b, h, w, 3]``."""
        how = self.config.data.resize
        resized = [resizing.resize(image, self.size(image), how) for image in images]
        return np.concatenate([padding.fill(image, bucket) for image in resized])

    def predict(
        self, images: Sequence[np.ndarray], bucket: Size | None = None, canvas: Size | None = None
    ) -> list[Outcome]:
        """Detects objects in images, uint8 ``[h, w, 3]``, in one batch.

        Args:
            images: RGB images of any sizes.
            bucket: Height and width of the batch; by default the smallest that holds the images.
            canvas: The canvas of every image; by default the image's size rounded up to multiples
                of 32.
        """
        sizes = [self.size(image) for image in images]
        bucket = bucket or self.bucket(sizes)
        padding_of = self.config.data.padding
        canvases = [canvas or self.square or resizing.canvas_of(x, padding_of) for x in sizes]
        numbers = np.array(sizes, np.int32), np.array(canvases, np.int32)
        batch = self.pad(images, bucket)
        self.compiled.add(batch.shape)
        with jax.default_matmul_precision("highest"):
            results = jax.device_get(self._apply(self.variables, batch, *numbers))
        outcomes = []
        for i, image in enumerate(images):
            result = jax.tree.map(lambda x, i=i: x[i], results)
            outcomes.append(self._outcome(result, sizes[i], image.shape[:2], canvases[i], bucket))
        return outcomes

    def anchors(self, canvas: Size) -> Levels:
        """The anchors of a canvas in the order of the peers, ``[n, 4]`` by level."""
        shapes = anchors.map_shapes(canvas, self.config.model.levels)
        rule = self.config.model.rpn.anchors
        grids = anchors.pyramid_anchors(shapes, jnp.array(canvas), **rule)
        boxes = {level: np.asarray(boxes) for level, (boxes, _) in grids.items()}
        return padding.crop_anchors(boxes, canvas, canvas)

    def _outcome(
        self, result: Any, size: Size, original_size: Size, canvas: Size, bucket: Size
    ) -> Outcome:
        """The outcome of one image of a batch, without padding."""
        detections, recorded = result
        intermediates = recorded["intermediates"]
        (proposals,), (scores,) = intermediates["propose"], intermediates["rpn"]["__call__"]
        box_head = intermediates["box_head"]
        ((class_logits, class_deltas, _),) = box_head["predict"]
        stages = proposals, *box_head.get("refine", ())
        settings = self.config.detection
        scaled, kept = pasting.scale_boxes(detections.boxes, size, original_size, settings)
        kept &= detections.valid
        masks = None
        if detections.masks is not None:
            drawn = detections.masks[kept]
            masks = pasting.paste(drawn, scaled[kept], original_size, settings.paste)
        return Outcome(
            size=size,
            original_size=original_size,
            canvas=canvas,
            anchors=self.anchors(canvas),
            objectness=padding.crop_anchors(scores.logits, canvas, bucket),
            deltas=padding.crop_anchors(scores.deltas, canvas, bucket),
            proposals=proposals.boxes[proposals.valid],
            rois=np.stack([stage.boxes[proposals.valid] for stage in stages]),
            class_logits=class_logits[proposals.valid],
            class_deltas=class_deltas[proposals.valid],
            boxes=detections.boxes[kept],
            labels=detections.classes[kept].astype(np.int64),
            scores=detections.scores[kept],
            original_boxes=scaled[kept],
            masks=masks,
        )


def _is_recorded(module: nn.Module, method: str) -> bool:
    """Whether Flax captures the results of a method: proposals, RoIs, and all scores."""
    methods = {"rpn": ("__call__",), "box_head": ("predict", "refine")}
    return method == "propose" or method in methods.get(module.name, ())
