"""Mask R-CNN (He et al., 2017): images to boxes, classes and masks, and a batch to five losses.

Start here. Each stage has a file of its own. Most stages work on one image; `each` maps them over
the batch.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from maskrcnn_jax import sharding
from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.detections import detect
from maskrcnn_jax.diagnostics import sample_counts
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.losses import mean, rpn_loss
from maskrcnn_jax.model_config import ModelConfig, RPNConfig
from maskrcnn_jax.modules import backbones, fpn
from maskrcnn_jax.modules.extents import zero_beyond
from maskrcnn_jax.modules.rpn import RPN
from maskrcnn_jax.ops.anchors import map_shapes
from maskrcnn_jax.ops.sampling import Key
from maskrcnn_jax.poolers import pool_rois
from maskrcnn_jax.proposals import propose
from maskrcnn_jax.roi_heads import composition as roi_heads
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.structures import AnchorScores, Batch, Detections, Proposals, Pyramid, Sums
from maskrcnn_jax.targets import anchor_targets, roi_targets

Images = UInt8[Array, "b h w c"] | Float[Array, "b h w c"]
Sizes = Int[Array, "b 2"]  # Height and width.
Threshold = Float[Array, ""] | float


class MaskRCNN(nn.Module):
    """Finds the objects in images and draws a mask for each of them.

    All shapes are static. The height and width of a batch of images, its bucket, are multiples of
    32. ``sizes`` is the part of the bucket that each image fills, and ``canvas`` is the part that
    the network sees: by default the size rounded up to multiples of 32. No layer reads cells beyond
    the canvas, so an image gives the same detections in any bucket and beside any other image.

    Attributes:
        config: The network and its training rules; copied and frozen.
        detection: Settings that only detection reads; copied and frozen.
        run: How the network is computed, from `execution.choose`; the default runs anywhere.
    """

    config: ModelConfig
    detection: DetectionConfig = dataclasses.field(default_factory=DetectionConfig)
    run: Execution = Execution()

    def __post_init__(self) -> None:
        self.config = freeze(self.config)
        self.detection = freeze(self.detection)
        super().__post_init__()

    def setup(self) -> None:
        c = self.config
        self.backbone = backbones.build(c.backbone, c.dtype, self.run)
        self.fpn = fpn.build(c.fpn, c.dtype, self.run)
        self.rpn = RPN(c.rpn, c.dtype, self.run, c.anchors_per_cell)
        self.box_head, self.mask_head = roi_heads.build(c, self.run)

    def __call__(
        self,
        images: Images,
        sizes: Sizes,
        canvas: Sizes | None = None,
        score_threshold: Threshold | None = None,
    ) -> Detections:
        """Detects objects: boxes first, then a mask inside each detected box.

        Args:
            images: uint8, or float32 whose white is 1; resized, at the top left of the bucket.
            sizes: Height and width of each image in pixels.
            canvas: Height and width in pixels of each image with the padding that the network
                sees.
            score_threshold: Detections must score above it; by default the configured threshold.
                It may be traced.

        Returns:
            Detections by descending score. Masks are ``[b, d, m, m]`` probabilities on a grid over
            each box, or None without a mask head.

        Raises:
            ValueError: The height or width of the bucket is not a multiple of 32.
        """
        canvas = backbones.canvas_of(self.config.backbone, sizes, canvas)
        threshold = self.detection.score_threshold if score_threshold is None else score_threshold

        pyramid = self.features(images, sizes, canvas)
        detections = self.detect_boxes(pyramid, sizes, canvas, threshold)
        if self.config.mask_head is None:
            return detections
        return detections._replace(masks=self.draw_masks(pyramid, detections, canvas))

    def detect_boxes(
        self, pyramid: Pyramid, sizes: Sizes, canvas: Sizes, score_threshold: Threshold
    ) -> Detections:
        """Detects objects, without their masks; arguments as in `__call__`."""
        scores = self.rpn(pyramid, canvas)
        proposals = self.propose(scores, pyramid, sizes, canvas, self.detection)
        pool = partial(self.pool, pyramid, canvas=canvas)
        logits, deltas, proposals = self.box_head.predict(pool, proposals, sizes)
        thresholds = jnp.full(len(sizes), score_threshold, jnp.float32)
        detect_each = self.each(
            detect,
            config=self.detection,
            box_weights=self.box_head.box_weights,
            limit_shrinking=self.config.limit_shrinking,
            classifier=self.config.box_head.classifier,
        )
        return detect_each(logits, deltas, proposals, sizes, thresholds)

    def draw_masks(
        self, pyramid: Pyramid, detections: Detections, canvas: Sizes
    ) -> Float[Array, "b d m m"]:
        """Draws the mask of the detected class inside each detected box."""
        assert self.mask_head is not None, "a model without a mask head draws no masks"
        pool = self.box_head.pool_for_masks(partial(self.pool, pyramid, canvas=canvas))
        return self.mask_head.predict(pool, detections)

    def losses(self, batch: Batch, key: Key) -> tuple[Sums, Sums]:
        """The five losses of the paper, and diagnostics, each as a sum and a count.

        Random draws depend on the key and on `Batch.image_id` only. If the collection
        ``batch_stats`` is mutable, as in training, batch norms use the statistics of the batch,
        otherwise the running statistics.
        """
        config = self.config
        canvas = backbones.canvas_of(config.backbone, batch.sizes, batch.canvas)
        batch = batch._replace(canvas=canvas)
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(batch.image_id)
        height, width = batch.images.shape[1:3]
        shapes = map_shapes((height, width), config.levels)

        match_each = self.each(anchor_targets, shapes=shapes, config=config.rpn)
        anchors = match_each(keys[:, 0], batch.instances, batch.canvas)
        pyramid = self.features(batch.images, batch.sizes, batch.canvas)
        pyramid, scores, sampled = self.rpn.learn(pyramid, batch.canvas, anchors.indices)
        divisor, regression = config.rpn.loss_divisor, config.rpn.regression
        losses = rpn_loss(*sampled, anchors, divisor=divisor, **regression)

        proposals = self.propose(scores, pyramid, batch.sizes, batch.canvas, config.rpn)
        rois = self.each(roi_targets, config=config.roi)(keys[:, 1], proposals, batch.instances)
        diagnostics = sample_counts(anchors, rois, batch.num_surplus, batch.num_removed)
        pool = partial(self.pool, pyramid, canvas=batch.canvas)
        box_losses, accuracies, stages, pool = self.box_head.learn(pool, rois, batch, keys[:, 1])
        losses |= box_losses
        diagnostics |= accuracies
        if config.mask_head is None:
            return losses, diagnostics

        mask_losses, accuracies = self.mask_head.learn(pool, stages, batch)
        return losses | mask_losses, diagnostics | accuracies

    def loss(self, batch: Batch, key: Key) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The sum of the mean losses, and the losses and diagnostics as metrics."""
        losses, diagnostics = self.losses(batch, key)
        means = {name: mean(pair) for name, pair in losses.items()}
        total: Any = sum(means.values())
        return total, means | {name: mean(pair) for name, pair in diagnostics.items()}

    def features(self, images: Images, sizes: Sizes, canvas: Sizes) -> Pyramid:
        """Images to the pyramid, P2 to P6.

        Raises ValueError for a bucket whose sides are no multiples of 32.
        """
        height, width = images.shape[1:3]
        if height % 32 or width % 32:
            raise ValueError(f"image height and width must be multiples of 32, got {height, width}")
        sharding.check_buckets([(height, width)], self.run.row_shards)
        return self.fpn(self.backbone(self.normalise(images, sizes), canvas), canvas)

    def normalise(self, images: Images, sizes: Sizes) -> Float[Array, "b h w c"]:
        """Standardises the channels and sets the padding to zero, the mean."""
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        mean = jnp.array(self.config.image_mean, jnp.float32).reshape(1, 1, 1, -1)
        std = jnp.array(self.config.image_std, jnp.float32).reshape(1, 1, 1, -1)
        return zero_beyond((images - mean) / std, sizes)

    def propose(
        self,
        scores: AnchorScores,
        pyramid: Pyramid,
        sizes: Sizes,
        canvas: Sizes,
        counts: RPNConfig | DetectionConfig,
    ) -> Proposals:
        """The proposals of each image; ``counts`` gives the numbers of candidates and proposals."""
        propose_each = self.each(
            propose,
            shapes={level: x.shape[1:3] for level, x in pyramid.items()},
            config=self.config.rpn,
            num_candidates=counts.num_candidates,
            num_proposals=counts.num_proposals,
            limit_shrinking=self.config.limit_shrinking,
        )
        return propose_each(*scores, sizes, canvas)

    def pool(
        self, pyramid: Pyramid, boxes: Float[Array, "b r 4"], canvas: Sizes, resolution: int
    ) -> Float[Array, "b r s s c"]:
        """Features of each RoI; of several levels the coarsest has anchors only: it is left out."""
        levels = {level: pyramid[level] for level in sorted(pyramid)[: max(1, len(pyramid) - 1)]}
        pool_each = partial(pool_rois, resolution=resolution, config=self.config.roi, run=self.run)
        return self.run.per_pyramid(pool_each)(levels, boxes, canvas)

    def each(self, stage: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        """Maps a stage of one image over the batch."""
        return self.run.per_image(partial(stage, **settings))
