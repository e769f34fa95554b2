# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Research: change the model, and use its parts
#
# All stages are pure functions, and the model is a Flax module. So one changes a head, adds a loss,
# freezes parts, or takes RoIAlign alone, without a fork.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from configs import shapes
from maskrcnn_jax import MaskRCNN, training
from maskrcnn_jax.data.pipeline import train_batches
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.diagnostics import mask_accuracy
from maskrcnn_jax.losses import mask_loss, mean
from maskrcnn_jax.modules import backbones, fpn
from maskrcnn_jax.modules.rpn import RPN
from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align
from maskrcnn_jax.roi_heads.plain import PlainBoxHead, PlainMaskHead, positives_and_masks
from maskrcnn_jax.variables import example_inputs

# %% [markdown]
# ## RoIAlign alone
#
# It pools the boxes of one image from a pyramid. It is linear in the features, so its gradient does
# not depend on them. `vmap` maps it over images, and `shard_map` gives each device a part of them.


# %%
def pool(pyramid, boxes):
    canvas = jnp.array([64, 64])
    return multilevel_roi_align(
        pyramid, boxes, canvas, resolution=7, sampling_ratio=2, aligned=True
    )


keys = jax.random.split(jax.random.key(0), 2)
num_images = 2 * jax.device_count()
sides = {2: 16, 3: 8, 4: 4, 5: 2}
pyramids = {
    level: jax.random.normal(jax.random.fold_in(keys[0], level), (num_images, side, side, 8))
    for level, side in sides.items()
}
corners = jax.random.uniform(keys[1], (num_images, 5, 2, 2), maxval=64)
boxes = jnp.concatenate([corners.min(2), corners.max(2)], axis=-1)

pooled = jax.jit(jax.vmap(pool))(pyramids, boxes)  # [images, boxes, 7, 7, channels]


@jax.jit
@jax.value_and_grad
def energy(pyramids):
    return (jax.vmap(pool)(pyramids, boxes) ** 2).sum()


_, gradient = energy(pyramids)

mesh = Mesh(np.array(jax.devices()), ("images",))
shared = jax.shard_map(jax.vmap(pool), mesh=mesh, in_specs=P("images"), out_specs=P("images"))
assert np.allclose(jax.jit(shared)(pyramids, boxes), pooled, atol=1e-5)
{f"P{level}": float(jnp.abs(g).max()) for level, g in gradient.items()}

# %% [markdown]
# The gradient agrees with a difference quotient along a random direction.

# %%
direction = {level: jnp.sin(x) for level, x in pyramids.items()}


def along(t):
    moved = {level: x + t * direction[level] for level, x in pyramids.items()}
    return energy(moved)[0]


slope = sum((gradient[level] * direction[level]).sum() for level in sides)
assert np.allclose((along(0.01) - along(-0.01)) / 0.02, slope, rtol=1e-2)

# %% [markdown]
# ## Another head, and another loss
#
# The box head below averages the features of a box before its layers. The mask head adds the Dice
# loss of the masks, `1 - 2 |A and B| / (|A| + |B|)`, to the five others.


# %%
class MeanBoxHead(PlainBoxHead):
    @nn.compact
    def __call__(self, pooled, valid=None):
        x = nn.relu(nn.Dense(64)(pooled.mean((2, 3))))
        deltas = nn.Dense(4 * self.num_classes)(x)
        return nn.Dense(self.num_classes)(x), deltas.reshape(*x.shape[:2], self.num_classes, 4)


def dice(logits, masks, targets):
    found = jax.nn.sigmoid(logits)
    common = 2 * (found * masks).sum((2, 3))
    share = common / jnp.maximum(found.sum((2, 3)) + masks.sum((2, 3)), 1e-6)
    count = targets.positive.sum(dtype=jnp.float32)
    return jnp.where(targets.positive, 1 - share, 0).sum(), count


class DiceMaskHead(PlainMaskHead):
    def learn(self, pool, stages, batch):
        positives, masks = positives_and_masks(self.model, self.run.per_image, stages[0], batch)
        pooled = pool(positives.boxes, resolution=self.config.resolution)
        logits = self(pooled, positives.classes, positives.positive)
        losses = mask_loss(logits, masks, positives)
        losses["loss_dice"] = dice(logits, masks, positives)
        return losses, mask_accuracy(logits, masks, positives)


class Mine(MaskRCNN):
    def setup(self):
        c = self.config
        self.backbone = backbones.build(c.backbone, c.dtype, self.run)
        self.fpn = fpn.build(c.fpn, c.dtype, self.run)
        self.rpn = RPN(c.rpn, c.dtype, self.run, c.anchors_per_cell)
        self.box_head = MeanBoxHead(c.box_head, c.num_classes, c.dtype, model=c, run=self.run)
        self.mask_head = DiceMaskHead(c.mask_head, c.num_classes, c.dtype, self.run, model=c)


# %% [markdown]
# ## Frozen parts, and a plain optax loop
#
# `optax.multi_transform` gives each part of the parameters its own optimizer.

# %%
config = shapes.get_config()
config.data.buckets, config.data.short_sides, config.data.max_long_side = ((64, 64),), (64,), 64
config.model.backbone.norm, config.model.backbone.stem_channels = "frozen_batch", 8
config.model.fpn.norm, config.model.fpn.channels = "none", 16
config.model.mask_head.channels, config.model.box_head.features = 16, 16
model = Mine(config.model)
variables = training.init_variables(model, seed=0)
params = variables.pop("params")
labels = {part: "frozen" if part == "backbone" else "trained" for part in params}
optimizer = optax.multi_transform(
    {"trained": optax.adamw(1e-3), "frozen": optax.set_to_zero()}, labels
)
state = optimizer.init(params)


def total(params, batch, key):
    losses, _ = model.apply({"params": params, **variables}, batch, key, method="losses")
    return sum(mean(pair) for pair in losses.values()), losses


def update(params, state, batch, key):
    (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(params, batch, key)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, losses


update = model.run.jit(update)
before = jax.tree.map(jnp.copy, params)
batches = train_batches(ShapesDataset(20, 64, 0), config.data, batch_size=2, seed=0)
for step, batch in zip(range(3), batches, strict=False):
    params, state, losses = update(params, state, batch, jax.random.key(step))
    print(step, {name: round(float(mean(pair)), 3) for name, pair in losses.items()})
moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, params)
assert not any(jax.tree.leaves(moved["backbone"])) and any(jax.tree.leaves(moved["mask_head"]))
assert "loss_dice" in losses

# %% [markdown]
# ## In Flax NNX
#
# `nnx.bridge.ToNNX` makes an NNX module of the model. Its parameters are `nnx.Param`. `nnx.jit`
# compiles the first call, which draws them; without it each operation would run on its own.


# %%
@nnx.jit
def make():
    bridged = nnx.bridge.ToNNX(MaskRCNN(config.model), rngs=nnx.Rngs(0))
    return nnx.bridge.lazy_init(bridged, *example_inputs(config.model))


parameters = nnx.state(make(), nnx.Param)
print(sum(array.size for array in jax.tree.leaves(parameters)), "parameters")
