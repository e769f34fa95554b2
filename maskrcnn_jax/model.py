"""Mask R-CNN (He et al., 2017): one image to boxes, classes and masks, and a batch to five losses.

Start here. Every line below is a stage with a file of its own; the stages work on one image and are mapped over the
batch by `per_image`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from maskrcnn_jax import compiler, diagnostics, sharding
from maskrcnn_jax.config import ModelConfig, freeze
from maskrcnn_jax.detections import detect
from maskrcnn_jax.losses import box_loss, mask_loss, mean, rpn_loss
from maskrcnn_jax.modules.fpn import FPN
from maskrcnn_jax.modules.heads import BoxHead, MaskHead, RPNHead
from maskrcnn_jax.modules.layers import halve, zero_beyond
from maskrcnn_jax.modules.materialise import materialise, together
from maskrcnn_jax.modules.resnet import ResNet
from maskrcnn_jax.ops.roi_align import multilevel_roi_align
from maskrcnn_jax.ops.roi_pool import multilevel_roi_pool
from maskrcnn_jax.ops.sampling import Key
from maskrcnn_jax.ops.windows import windows_at
from maskrcnn_jax.proposals import propose
from maskrcnn_jax.structures import Batch, Detections, Proposals, SumAndCount
from maskrcnn_jax.targets import anchor_targets, mask_targets, max_positives, roi_targets

Images = UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
LEVELS = range(2, 7)  # Of the pyramid: P2 to P6.
MASK_GROUP = 20  # Detections per image that the mask head sees at once.

Pyramid = dict[int, Array]  # {level: [b, h, w, c]} of stride 2**level; each level above the finest half as large.


class MaskRCNN(nn.Module):
    """Finds the objects in images and draws a mask for each of them.

    All shapes are static. The height and width of a batch of images, its bucket, are multiples of 32. ``sizes`` says
    which part of it an image fills, ``canvas`` up to where the network may look: the size rounded up to a multiple
    of 32 unless given. Beyond the canvas the bucket does not exist for any layer, so an image gives the same detections
    in any bucket and beside any other image.

    Attributes:
        config: Copied and frozen when the model is built.
        per_image: Maps a function of one image over arguments that all have a leading batch axis, as `jax.vmap` does.
            A program that shards the batch puts a `shard_map` round it, lest XLA gather the batch.
        mesh: The devices such a program is for, along ``data`` and ``space``: see `sharding`.
    """

    config: ModelConfig
    per_image: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.vmap
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        self.config = freeze(self.config)
        super().__post_init__()

    def setup(self) -> None:
        c, divided = self.config, self.divides_rows
        # Make things again instead of keeping them. Elsewhere their order would not hold: they would take more memory.
        remake = compiler.is_one_cpu(self.mesh)
        whole = partial(sharding.whole_images, mesh=self.mesh)
        self.backbone = ResNet(
            depth=c.depth,
            stem_channels=c.stem_channels,
            norm=c.norm,
            norm_eps=c.norm_eps,
            stride_in_1x1=c.stride_in_1x1,
            frozen_stages=c.frozen_stages,
            dtype=c.dtype,
            rematerialise=c.rematerialise,
            remake=remake,
            divided=divided,
        )
        self.fpn = FPN(
            features=c.fpn_channels,
            norm=c.fpn_norm,
            norm_eps=c.norm_eps,
            dtype=c.dtype,
            whole=whole,
            remake=remake,
            divided=divided,
        )
        self.rpn_head = RPNHead(
            num_anchors=len(c.rpn.aspect_ratios), num_convs=c.rpn_head_convs, dtype=c.dtype, divided=divided
        )
        self.box_head = BoxHead(
            num_classes=c.num_classes,
            num_convs=c.box_head_convs,
            channels=c.box_head_channels,
            norm=c.box_head_norm,
            norm_eps=c.norm_eps,
            num_layers=c.box_head_layers,
            features=c.box_head_features,
            dtype=c.dtype,
        )
        self.mask_head = MaskHead(
            num_classes=c.num_classes,
            num_convs=c.mask_head_convs,
            channels=c.mask_head_channels,
            norm=c.mask_head_norm,
            norm_eps=c.norm_eps,
            dtype=c.dtype,
            drawn_at_once=32 if remake else None,
        )

    def __call__(
        self,
        images: Images,
        sizes: Int[Array, "b 2"],
        canvas: Int[Array, "b 2"] | None = None,
        score_threshold: Float[Array, ""] | float | None = None,
    ) -> Detections:
        """Detects objects: boxes first, then a mask inside each detected box.

        Args:
            images: RGB, uint8 or float in [0, 1], resized, at the top left of the bucket.
            sizes: Height and width of each image in pixels.
            canvas: Height and width of each image with the padding the network sees.
            score_threshold: Detections must score above it; the configured one by default. May be traced.
        """
        canvas = ceil32(sizes) if canvas is None else canvas
        threshold = self.config.detection.score_threshold if score_threshold is None else score_threshold

        pyramid = self.features(images, sizes, canvas)
        detections = self.detect_boxes(pyramid, sizes, canvas, threshold)
        return detections._replace(masks=self.draw_masks(pyramid, detections, canvas))  # [b, d, 28, 28]

    def detect_boxes(
        self,
        pyramid: Pyramid,
        sizes: Int[Array, "b 2"],
        canvas: Int[Array, "b 2"],
        score_threshold: Float[Array, ""] | float,
    ) -> Detections:
        """Detects objects, without their masks; arguments as in `__call__`."""
        config = self.config
        logits, deltas = self.score_anchors(pyramid, canvas)
        count = config.rpn.test_num_candidates, config.rpn.test_num_proposals
        proposals = self.propose(pyramid, logits, deltas, sizes, canvas, *count)

        pooled = self.pool(pyramid, proposals.boxes, canvas, config.roi.box_resolution)  # [b, p, 7, 7, c]
        logits, deltas = self.box_head(pooled)
        detect_one = partial(detect, config=config.detection, box_weights=config.roi.box_weights)
        thresholds = jnp.full(len(sizes), score_threshold, jnp.float32)
        return self.per_image(detect_one)(logits, deltas, proposals, sizes, thresholds)

    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, SumAndCount], dict[str, SumAndCount]]:
        """The five losses of the paper, and diagnostics to watch; each a sum and a count.

        Random draws depend on the key and on `Batch.image_id` only. Batch norms use the statistics of the batch if the
        collection ``batch_stats`` is mutable, as in training, else the running ones.
        """
        config = self.config
        keys = jax.vmap(lambda image_id: jax.random.split(jax.random.fold_in(key, image_id)))(batch.image_id)
        instances = batch.instances

        bucket = batch.images.shape[1:3]
        shapes = {level: tuple(-(-side // 2**level) for side in bucket) for level in LEVELS}
        anchor_targets_one = partial(anchor_targets, shapes=shapes, config=config.rpn)
        anchors = self.per_image(anchor_targets_one)(keys[:, 0], instances, batch.canvas)
        # First, while there is room: the overlaps of all anchors with all objects are larger than any feature map.
        images, anchors = materialise((batch.images, anchors))

        pyramid = self.features(images, batch.sizes, batch.canvas)
        pyramid, scores, sampled = self.score_to_learn(pyramid, batch.canvas, anchors.indices)
        losses = rpn_loss(*sampled, anchors, beta=config.rpn.smooth_l1_beta)

        count = config.rpn.train_num_candidates, config.rpn.train_num_proposals
        proposals = self.propose(pyramid, *scores, batch.sizes, batch.canvas, *count)
        rois = self.per_image(partial(roi_targets, config=config.roi))(keys[:, 1], proposals, instances)
        positives = jax.tree.map(lambda x: x[:, : self.num_mask_samples], rois)
        pooled = self.pool(pyramid, rois.boxes, batch.canvas, config.roi.box_resolution)  # [b, r, 7, 7, c]
        to_draw = self.pool(pyramid, positives.boxes, batch.canvas, config.roi.mask_resolution)  # [b, r, 14, 14, c]
        pooled, to_draw = materialise((pooled, to_draw))  # The maps are let go before the heads start.
        logits, deltas = self.box_head(pooled, rois.valid)
        losses |= box_loss(logits, deltas, rois, beta=config.roi.smooth_l1_beta)
        watched = diagnostics.counts(anchors, rois, batch.num_surplus) | diagnostics.box_accuracy(logits, rois)

        resolution = 2 * config.roi.mask_resolution
        mask_targets_one = partial(mask_targets, bucket=bucket, resolution=resolution)
        masks = self.per_image(mask_targets_one)(positives, instances, batch.sizes)
        logits = self.mask_head(to_draw, positives.classes, positives.positive)
        losses |= mask_loss(logits, masks, positives)
        return losses, watched | diagnostics.mask_accuracy(logits, masks, positives)

    def loss(self, batch: Batch, key: Key) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The sum of the five mean losses; each of them, and the diagnostics, as metrics."""
        losses, watched = self.losses(batch, key)
        means = {name: mean(loss) for name, loss in losses.items()}
        return sum(means.values()), means | {name: mean(pair) for name, pair in watched.items()}

    def features(self, images: Images, sizes: Int[Array, "b 2"], canvas: Int[Array, "b 2"]) -> Pyramid:
        """Images to the pyramid P2 to P6. Raises ValueError if the bucket is not a multiple of 32."""
        if images.shape[1] % 32 or images.shape[2] % 32:
            raise ValueError(f"image height and width must be multiples of 32, got {images.shape[1:3]}")
        if self.divides_rows:
            sharding.check_buckets([images.shape[1:3]], self.mesh)
        stages = self.backbone(self.normalise(images, sizes), canvas)
        return self.fpn(stages, _extents(stages, canvas))

    def normalise(self, images: Images, sizes: Int[Array, "b 2"]) -> Float[Array, "b h w 3"]:
        """Standardises the colours; the padding becomes zero, which is the mean colour."""
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        mean = jnp.array(self.config.image_mean, jnp.float32).reshape(1, 1, 1, 3)
        std = jnp.array(self.config.image_std, jnp.float32).reshape(1, 1, 1, 3)
        return zero_beyond((images - mean) / std, sizes)

    def score_anchors(self, pyramid: Pyramid, canvas: Int[Array, "b 2"]) -> tuple[dict[int, Array], dict[int, Array]]:
        """Per level, the objectness of its anchors and how to move them; all of an image, for its stages need all."""
        scores = self.rpn_head(pyramid, _extents(pyramid, canvas))
        return jax.tree.map(partial(sharding.whole_images, mesh=self.mesh), scores)

    def score_to_learn(
        self, pyramid: Pyramid, canvas: Int[Array, "b 2"], indices: Int[Array, "b s"]
    ) -> tuple[Pyramid, tuple[dict[int, Array], dict[int, Array]], tuple[Float[Array, "b s"], Float[Array, "b s 4"]]]:
        """The scores of all anchors, to make proposals of, and those of the sampled ones, which have a gradient.

        Returns:
            The pyramid, for all that comes after; `score_anchors`; logits and deltas of the anchors of these indices.
        """
        scores = self.score_anchors(pyramid, canvas)
        if self.learns_from_windows:
            pyramid, *sampled = self.score_sampled(pyramid, canvas, indices)
            # Now, while the maps are there in any case.
            pyramid, sampled = materialise((pyramid, tuple(sampled)))
            return pyramid, jax.lax.stop_gradient(scores), sampled
        # Backward, the other heads come first: what was kept for them is gone when the RPN's turn comes.
        finer = {level: pyramid[level] for level in LEVELS[:-1]}  # Of the coarsest the RPN alone makes use.
        finer, scores = together((finer, scores))
        take = jax.vmap(lambda i, of_image: jax.tree.map(lambda x: x[i], of_image))
        return pyramid | finer, scores, take(indices, tuple(map(_concatenate, scores)))

    def score_sampled(
        self, pyramid: Pyramid, canvas: Int[Array, "b 2"], indices: Int[Array, "b s"]
    ) -> tuple[Pyramid, Float[Array, "b s"], Float[Array, "b s 4"]]:
        """Logits and deltas of some anchors, from the windows around them alone; the pyramid is for all that follows.

        All other anchors have no gradient, so that of whole maps, most of the work of the RPN, would be zeros.
        """
        num_ratios = len(self.config.rpn.aspect_ratios)
        windows_one = partial(windows_at, num_ratios=num_ratios, radius=self.config.rpn_head_convs)
        pyramid, *windows = self.per_image(windows_one)(pyramid, _extents(pyramid, canvas), indices)
        return pyramid, *self.rpn_head.score_windows(*windows, indices % num_ratios)

    def propose(
        self,
        pyramid: Pyramid,
        logits: dict[int, Array],
        deltas: dict[int, Array],
        sizes: Int[Array, "b 2"],
        canvas: Int[Array, "b 2"],
        num_candidates: int,
        num_proposals: int,
    ) -> Proposals:
        """Maps `proposals.propose` over the batch."""
        propose_one = partial(
            propose,
            shapes=_shapes(pyramid),
            config=self.config.rpn,
            num_candidates=num_candidates,
            num_proposals=num_proposals,
        )
        return self.per_image(propose_one)(logits, deltas, sizes, canvas)

    def pool(
        self, pyramid: Pyramid, rois: Float[Array, "b r 4"], canvas: Int[Array, "b 2"], resolution: int
    ) -> Float[Array, "b r s s c"]:
        """Features of each RoI, on the level of the pyramid that suits it; the coarsest level is for anchors only.

        Where devices share the rows of images, each multiplies its own and the products are added: mapped by
        `per_image`, or with gathers, every device would need all rows.
        """
        pool = partial(_pooling(self.config, self.divides_rows), resolution=resolution)
        levels = {level: pyramid[level] for level in sorted(pyramid)[:-1]}
        return (jax.vmap if self.divides_rows else self.per_image)(pool)(levels, rois, canvas)

    def draw_masks(
        self, pyramid: Pyramid, detections: Detections, canvas: Int[Array, "b 2"]
    ) -> Float[Array, "b d m m"]:
        """A mask inside each detected box, of the class that was detected there.

        The mask head costs more than all the rest where there are many slots, and most images fill few of them: slots
        are worked through in groups, and a group that is empty in every image is skipped, its masks zero.
        """
        head, variables = (self.mask_head, None) if self.is_initializing() else self.mask_head.unbind()

        def draw(boxes: Float[Array, "b s 4"], classes: Int[Array, "b s"]) -> Float[Array, "b s m m"]:
            pooled = self.pool(pyramid, boxes, canvas, self.config.roi.mask_resolution)  # [b, s, 14, 14, c]
            logits = head(pooled, classes) if variables is None else head.apply(variables, pooled, classes)
            return jax.nn.sigmoid(logits)

        if variables is None:
            return draw(detections.boxes, detections.classes)

        def draw_group(_: None, group: tuple[Array, Array, Array]) -> tuple[None, Float[Array, "b s m m"]]:
            boxes, classes, valid = group
            shape = jax.eval_shape(draw, boxes, classes).shape
            return None, jax.lax.cond(valid.any(), draw, lambda *_: jnp.zeros(shape), boxes, classes)

        slots = detections.boxes, detections.classes, detections.valid
        _, masks = jax.lax.scan(draw_group, None, jax.tree.map(_split_slots, slots))  # [groups, b, s, m, m]
        masks = jnp.swapaxes(masks, 0, 1).reshape(len(detections.boxes), -1, *masks.shape[3:])
        return masks[:, : detections.valid.shape[1]]

    @property
    def divides_rows(self) -> bool:
        """Whether several devices share the rows of an image."""
        return self.mesh is not None and self.mesh.shape["space"] > 1

    @property
    def learns_from_windows(self) -> bool:
        """Whether the RPN's gradient is computed by `score_sampled`: where devices share rows, each would need all."""
        form = self.config.rpn.gradient_form
        if form not in ("auto", "windows", "maps"):
            raise ValueError(f'rpn.gradient_form must be "auto", "windows" or "maps", got {form!r}')
        form = "windows" if form == "auto" and compiler.platform(self.mesh) == "cpu" else form
        return form == "windows" and not self.divides_rows

    @property
    def num_mask_samples(self) -> int:
        """RoIs per image that the mask head trains on: positives come first, so a slice holds them all."""
        most = max_positives(self.config.roi)
        return min(most, self.config.roi.max_mask_samples or most)


def ceil32(sizes: Int[Array, "b 2"]) -> Int[Array, "b 2"]:
    """Sizes rounded up to multiples of 32, the stride of the coarsest stage of the backbone."""
    return -(-sizes // 32) * 32


def _pooling(config: ModelConfig, divides_rows: bool) -> Callable[..., Array]:
    """RoIAlign or RoIPool of one image."""
    roi = config.roi
    if roi.pooling == "align":
        rule = {"sampling_ratio": roi.sampling_ratio, "aligned": roi.aligned}
        form = "einsum" if divides_rows else roi.align_form
        return partial(multilevel_roi_align, **rule, form=form, deterministic=config.deterministic)
    if roi.pooling != "pool":
        raise ValueError(f'roi.pooling must be "align" (its form is roi.align_form) or "pool", got {roi.pooling!r}')
    if divides_rows:
        raise ValueError('roi.pooling="pool" needs the whole image on each device: set space=1')
    return multilevel_roi_pool


def _extents(features: dict[int, Array], canvas: Int[Array, "b 2"]) -> dict[int, Int[Array, "b 2"]]:
    """Per level, the cells that the canvas covers."""
    return {level: halve(canvas, 2**level) for level in features}


def _shapes(pyramid: Pyramid) -> dict[int, tuple[int, int]]:
    return {level: x.shape[1:3] for level, x in pyramid.items()}


def _concatenate(levels: dict[int, Array]) -> Array:
    return jnp.concatenate([levels[level] for level in sorted(levels)], axis=1)


def _split_slots(x: Array) -> Array:
    """``[b, d, ...]`` to ``[groups, b, s, ...]``; the last group is filled up with zeros."""
    surplus = -x.shape[1] % MASK_GROUP
    x = jnp.pad(x, [(0, 0), (0, surplus)] + [(0, 0)] * (x.ndim - 2))
    return jnp.swapaxes(x.reshape(x.shape[0], -1, MASK_GROUP, *x.shape[2:]), 0, 1)
