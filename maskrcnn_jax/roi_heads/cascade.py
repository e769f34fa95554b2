"""Cascade R-CNN (Cai and Vasconcelos, 2018): each stage refines the boxes of the stage before."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.detections import decode
from maskrcnn_jax.diagnostics import box_accuracy, mask_accuracy
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.losses import box_loss, mask_loss
from maskrcnn_jax.model_config import ModelConfig, RoIConfig
from maskrcnn_jax.modules.box_head import BoxHead
from maskrcnn_jax.modules.mask_head import MaskHead
from maskrcnn_jax.roi_heads.plain import Pool, positives_and_masks, probabilities
from maskrcnn_jax.structures import Batch, Detections, Proposals, RoITargets, Sums
from maskrcnn_jax.targets import counted_classes, rematched_targets, roi_targets


def stage_configs(config: ModelConfig) -> list[RoIConfig]:
    """The training rules of each stage, the first included."""
    cascade = config.cascade
    assert cascade is not None, "a model of a single stage has no cascade"
    pairs = zip(cascade.positive_ious, cascade.box_weights, strict=True)
    later = [
        dataclasses.replace(config.roi, positive_iou=iou, box_weights=weights)
        for iou, weights in pairs
    ]
    return [config.roi, *later]


class CascadeBoxHead(nn.Module):
    """A box head for each stage; all regress one box for all classes."""

    model: ModelConfig
    run: Execution

    def setup(self) -> None:
        c = self.model
        self.rules = stage_configs(c)
        self.stage = [BoxHead(c.box_head, c.num_classes, c.dtype) for _ in self.rules]

    @property
    def box_weights(self) -> tuple[float, ...]:
        """Scale of the deltas that `predict` returns: those of the last stage."""
        return self.rules[-1].box_weights

    def predict(
        self, pool: Pool, proposals: Proposals, sizes: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b p k"], Float[Array, "b p 1 4"], Proposals]:
        """Class logits of all stages together, and deltas and boxes of the last.

        Arguments as in `plain.PlainBoxHead.predict`.
        """
        votes, last = [], len(self.stage) - 1
        for i, head in enumerate(self.stage):
            pooled = pool(proposals.boxes, resolution=self.model.box_head.resolution)
            logits, deltas = head(pooled)
            votes.append(logits)
            if i < last:
                proposals = self.refine(i, deltas, proposals, sizes)
        return self._mean(jnp.stack(votes)), deltas, proposals

    def pool_for_masks(self, pool: Pool) -> Pool:
        """Pools the features that the mask head reads."""
        return pool

    def learn(
        self, pool: Pool, rois: RoITargets, batch: Batch, keys: Array
    ) -> tuple[Sums, Sums, tuple[RoITargets, ...], Pool]:
        """The losses of each stage, the diagnostics of the last, and the RoIs of each stage.

        Arguments as in `plain.PlainBoxHead.learn`.
        """
        losses: Sums = {}
        stages, weight, last = [], 1.0, len(self.stage) - 1
        for i, head in enumerate(self.stage):
            stages.append(rois)
            pooled = pool(rois.boxes, resolution=self.model.box_head.resolution)
            logits, deltas = head(self._scale_gradient(pooled), rois.valid)
            count_each = self.run.per_image(partial(counted_classes, config=self.model))
            counted = count_each(_of_stage(keys, i), rois)
            found = box_loss(logits, deltas, rois, counted, **self.rules[i].regression)
            losses |= of_stage(i, weight, found)
            weight *= self.model.cascade.loss_weight
            if i < last:
                given = Proposals(rois.boxes, rois.valid)
                refined = self.refine(i, deltas, given, batch.sizes)
                rois = self._next_rois(i + 1, refined, rois, batch, keys)
        accuracies = box_accuracy(logits, rois, self.model.box_head.classifier)
        return losses, accuracies, tuple(stages), pool

    def refine(
        self, i: int, deltas: Float[Array, "b p 1 4"], proposals: Proposals, sizes: Array
    ) -> Proposals:
        """The boxes of stage ``i``, clipped to the image; no gradient flows through them."""
        rule = {"box_weights": self.rules[i].box_weights}
        rule |= {"limit_shrinking": self.model.limit_shrinking}
        boxes = self.run.per_image(partial(decode, **rule))(deltas, proposals, sizes)
        return Proposals(jax.lax.stop_gradient(boxes.squeeze(2)), proposals.valid)

    def _next_rois(
        self, i: int, refined: Proposals, rois: RoITargets, batch: Batch, keys: Array
    ) -> RoITargets:
        """The RoIs that train stage ``i``."""
        each = self.run.per_image
        if self.model.cascade.samples == "all":
            return each(partial(rematched_targets, config=self.rules[i]))(refined, batch.instances)
        # The objects themselves are candidates of each stage: they are not refined.
        own = jnp.take_along_axis(batch.instances.boxes, rois.instances[..., None], axis=1)
        is_object = rois.positive & (own == rois.boxes).all(-1)
        refined = refined._replace(valid=refined.valid & ~is_object)
        draw = each(partial(roi_targets, config=self.rules[i]))
        return draw(_of_stage(keys, i), refined, batch.instances)

    def _scale_gradient(self, x: Array) -> Array:
        factor = self.model.cascade.feature_gradient
        factor = 1 / len(self.rules) if factor is None else factor
        value = jax.lax.stop_gradient(x)
        return x if factor == 1 else value + factor * (x - value)

    def _mean(self, votes: Float[Array, "n b p k"]) -> Float[Array, "b p k"]:
        """Logits whose softmax, or sigmoid, is the score."""
        if self.model.cascade.average == "logits":
            return votes.mean(axis=0)
        if self.model.box_head.classifier == "sigmoid":
            return logit_of_mean(votes)
        return log_mean(jax.nn.log_softmax(votes))


class CascadeMaskHead(nn.Module):
    """A mask head for each stage, whose probabilities are averaged."""

    model: ModelConfig
    run: Execution

    def setup(self) -> None:
        c = self.model
        settings = c.mask_head, c.num_classes, c.dtype, self.run
        self.stage = [MaskHead(*settings) for _ in stage_configs(c)]

    def __call__(
        self,
        pooled: Float[Array, "b r s s c"],
        classes: Int[Array, "b r"],
        valid: Bool[Array, "b r"] | None = None,
    ) -> Float[Array, "b r 2*s 2*s"]:
        """Logits whose sigmoid is the mean probability; arguments as in `MaskHead`."""
        return logit_of_mean(jnp.stack([head(pooled, classes, valid) for head in self.stage]))

    def predict(self, pool: Pool, detections: Detections) -> Float[Array, "b d m m"]:
        """Probabilities inside each detected box; arguments as in `plain.PlainMaskHead.predict`."""
        resolution = self.model.mask_head.resolution
        return probabilities(self, pool, detections, resolution, self.run.mask_chunk)

    def learn(self, pool: Pool, stages: tuple[RoITargets, ...], batch: Batch) -> tuple[Sums, Sums]:
        """The loss of each stage on its positive RoIs, and the diagnostics of the last.

        Arguments as in `plain.PlainMaskHead.learn`.
        """
        losses, weight = {}, 1.0
        for i, (head, rois) in enumerate(zip(self.stage, stages, strict=True)):
            positives, masks = positives_and_masks(self.model, self.run.per_image, rois, batch)
            pooled = pool(positives.boxes, resolution=self.model.mask_head.resolution)
            logits = head(pooled, positives.classes, positives.positive)
            losses |= of_stage(i, weight, mask_loss(logits, masks, positives))
            weight *= self.model.cascade.loss_weight
        return losses, mask_accuracy(logits, masks, positives)


def of_stage(i: int, weight: float, losses: Sums) -> Sums:
    """Losses of stage ``i`` by their names, weighted."""
    pairs = losses.items()
    return {f"{name}_stage{i}": (weight * total, count) for name, (total, count) in pairs}


def _of_stage(keys: Array, i: int) -> Array:
    """The keys of stage ``i``; the first has those of a single stage."""
    return keys if i == 0 else jax.vmap(partial(jax.random.fold_in, data=i))(keys)


def logit_of_mean(logits: Array) -> Array:
    """The logit of the mean probability over the first axis."""
    inside, outside = (log_mean(jax.nn.log_sigmoid(x)) for x in (logits, -logits))
    return inside - outside


def log_mean(logs: Array) -> Array:
    """The logarithm of the mean over the first axis of numbers, from their logarithms."""
    return jax.nn.logsumexp(logs, axis=0) - jnp.log(len(logs))
