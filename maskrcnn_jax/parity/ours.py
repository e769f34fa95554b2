"""Our side of the comparison: the whole model, from pictures to masks, and the numbers on which it decided."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import compiler, images, pasting
from maskrcnn_jax.config import DataConfig, ModelConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops import anchors
from maskrcnn_jax.parity import padding
from maskrcnn_jax.parity.padding import Size
from maskrcnn_jax.parity.records import Levels, Outcome


class Ours:
    """A model and its weights, compiled once for each bucket and number of images in it.

    Args:
        config: Of the model.
        variables: Its weights.
        short_side: Of the resized pictures, in pixels, unless their long side would then exceed
        max_long_side: this one.
    """

    def __init__(
        self, config: ModelConfig, variables: dict[str, Any], *, short_side: int = 800, max_long_side: int = 1333
    ) -> None:
        self.config, self.variables = config, variables
        self.short_side, self.max_long_side = short_side, max_long_side
        # torchvision's default sizes have the buckets of `Detector`, others the same ones scaled.
        scale = short_side / DataConfig().test_short_side
        buckets = [(height * scale, width * scale) for height, width in DataConfig().test_buckets]
        self.buckets = [images.ceil32((int(height), int(width))) for height, width in buckets]
        apply = partial(MaskRCNN(config).apply, capture_intermediates=_is_recorded, mutable=["intermediates"])
        self._apply = compiler.jit(config.deterministic)(apply)
        self.compiled: set[tuple[int, ...]] = set()  # Shapes of the batches seen: a program each.

    def size(self, picture: np.ndarray) -> Size:
        """Height and width of the picture after resizing."""
        return images.resized_size(picture.shape[:2], self.short_side, self.max_long_side)

    def bucket(self, sizes: Sequence[Size]) -> Size:
        """The smallest bucket that holds images of these sizes; where there is none, a bucket of their own."""
        size = max(height for height, _ in sizes), max(width for _, width in sizes)
        try:
            return images.bucket_for(size, self.buckets)
        except ValueError:
            return images.ceil32(size)

    def pad(self, pictures: Sequence[np.ndarray], bucket: Size) -> np.ndarray:
        """Resized pictures at the top left of a batch, float32 ``[b, h, w, 3]``."""
        return np.concatenate([padding.fill(images.resize(x, self.size(x)), bucket) for x in pictures])

    def predict(
        self, pictures: Sequence[np.ndarray], bucket: Size | None = None, canvas: Size | None = None
    ) -> list[Outcome]:
        """Detects the objects of pictures, uint8 (H, W, 3), in one batch.

        Args:
            bucket: Height and width of the batch; the smallest that holds the pictures by default.
            canvas: Of every picture; by default each has its own size, rounded up to multiples of 32.
        """
        sizes = [self.size(picture) for picture in pictures]
        bucket = bucket or self.bucket(sizes)
        canvases = [canvas or images.ceil32(size) for size in sizes]
        numbers = np.array(sizes, np.int32), np.array(canvases, np.int32)
        batch = self.pad(pictures, bucket)
        self.compiled.add(batch.shape)
        with jax.default_matmul_precision("highest"):
            results = self._apply(self.variables, batch, *numbers)
        outcomes = []
        for i, result in enumerate(_unstack(jax.device_get(results), len(pictures))):
            outcomes.append(self._outcome(result, sizes[i], pictures[i].shape[:2], canvases[i], bucket))
        return outcomes

    def anchors(self, canvas: Size) -> Levels:
        """The anchors of an image on its canvas, ``[n, 4]`` by level."""
        shapes, config = {level: padding.cells(canvas, level) for level in range(2, 7)}, self.config.rpn
        grids = anchors.pyramid_anchors(shapes, jnp.array(canvas), config.anchor_sizes, config.aspect_ratios)
        return {level: np.asarray(boxes) for level, (boxes, _) in grids.items()}

    def _outcome(self, result: Any, size: Size, original_size: Size, canvas: Size, bucket: Size) -> Outcome:
        detections, recorded = result
        (proposals,), intermediates = recorded["intermediates"]["propose"], recorded["intermediates"]
        objectness, deltas = intermediates["rpn_head"]["__call__"][0]
        class_logits, class_deltas = (x[proposals.valid] for x in intermediates["box_head"]["__call__"][0])
        found = pasting.to_original(detections, size, original_size)
        return Outcome(
            size=size,
            original_size=original_size,
            canvas=canvas,
            anchors=self.anchors(canvas),
            objectness=padding.crop_anchors(objectness, canvas, bucket),
            deltas=padding.crop_anchors(deltas, canvas, bucket),
            proposals=proposals.boxes[proposals.valid],
            class_logits=class_logits,
            class_deltas=class_deltas,
            boxes=detections.boxes[detections.valid],
            labels=found.labels,
            scores=found.scores,
            original_boxes=found.boxes,
            masks=pasting.paste(detections.masks[detections.valid], found.boxes, original_size),
        )


def _is_recorded(module: nn.Module, method: str) -> bool:
    """Whether Flax keeps the results of this method: what is selected as proposals, and what there was to select."""
    return method == "propose" or (method == "__call__" and module.name in ("rpn_head", "box_head"))


def _unstack(tree: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]
