"""The backbone of ViTDet (Li et al., 2022): a plain vision transformer, with maps of four strides.

Most blocks attend within windows, a few to the whole image. The maps are made of the last one
alone. Layers have Detectron2's names.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ViTConfig
from maskrcnn_jax.modules.layers import (
    Deconv2x2,
    PatchConv,
    Projection,
    gelu,
    interleave,
    recomputed,
    trunc_normal,
    without_branches,
)
from maskrcnn_jax.modules.norms import LayerNorm
from maskrcnn_jax.ops.attention import attend

PATCH = 16  # Side of a patch in pixels.
POSITIONS = 14  # Side of the grid of learned positions: that of images of 224 pixels.
AFTER_BLOCKS = 1000  # A stage that no config freezes.
CUBIC = -0.75  # PyTorch's coefficient of cubic interpolation.


class ViT(nn.Module):
    """Images to ``{level: [b, h, w, c]}``, for levels 2 to 5 with strides 4 to 32.

    Attention sees all of an image, so all images have the same size: a square, padded with the
    mean.
    """

    config: ViTConfig
    dtype: str = "float32"
    run: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], canvas: Int[Array, "b 2"]
    ) -> dict[int, Array]:
        """Maps of an image.

        Raises:
            ValueError: The bucket is not the square of the config, or devices share rows.
        """
        c = self.config
        if images.shape[1:3] != (c.image_side, c.image_side):
            height, width = images.shape[1:3]
            raise ValueError(
                f"model.backbone.image_side is {c.image_side}: images must be padded to "
                f"{c.image_side}x{c.image_side}, got {height}x{width}; set data.buckets and "
                "data.test_buckets to this size"
            )
        if self.run.row_shards > 1:
            raise ValueError("a ViT needs whole images on each device: set execution.space to 1")
        x = PatchConv(c.width, PATCH, self.dtype, name="patch_embed")(images)
        positions = self.param("pos_embed", trunc_normal, (1, POSITIONS**2 + 1, c.width))
        x = self._stop_if_frozen(x + resized(positions, x.shape[1]).astype(x.dtype), stage=1)
        block = recomputed(Block, "blocks", self.run)
        for i in range(c.depth):
            window = None if i in c.global_blocks else c.window
            drop = c.drop_path * i / max(c.depth - 1, 1)
            x = block(c, window, drop, self.dtype, self.run, name=f"blocks_{i}")(x)
            x = self._stop_if_frozen(x, stage=i + 2)
        return self._maps(x)

    def _maps(self, x: Float[Array, "b h w c"]) -> dict[int, Array]:
        """The maps of the simple feature pyramid before its convolutions (figure 2c)."""
        width, dtype = self.config.width, self.dtype
        double = partial(Deconv2x2, dtype=dtype)
        finer = interleave(double(width // 2, name="simfp_2_0")(x))
        finer = gelu(LayerNorm(dtype=dtype, name="simfp_2_1")(finer))
        return {
            2: interleave(double(width // 4, name="simfp_2_3")(finer)),
            3: interleave(double(width // 2, name="simfp_3_0")(x)),
            4: x,
            5: nn.max_pool(x, (2, 2), (2, 2)),
        }

    def _stop_if_frozen(self, x: Array, stage: int) -> Array:
        return jax.lax.stop_gradient(x) if self.config.frozen_stages >= stage else x


def channels(config: ViTConfig) -> dict[int, int]:
    """The number of channels of the maps of each level."""
    width = config.width
    return {2: width // 4, 3: width // 2, 4: width, 5: width}


def stage_of(layer: str) -> int:
    """The stage of a layer: 1 for the embeddings, then one for each block."""
    if layer in ("patch_embed", "pos_embed"):
        return 1
    is_block = layer.startswith("blocks_")
    return int(layer.removeprefix("blocks_")) + 2 if is_block else AFTER_BLOCKS


class Block(nn.Module):
    """Attention, then two fully connected layers, each after a norm and around a shortcut."""

    config: ViTConfig
    window: int | None  # Side of the windows in tokens; None for the whole image.
    drop: float  # Probability that training skips a branch of an image.
    dtype: str
    run: Execution = Execution()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        c = self.config
        linear = partial(Projection, dtype=self.dtype)
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        attention = Attention(c.num_heads, self.dtype, self.run, name="attn")
        if self.window is None:
            y = attention(y)
        else:
            y = merge_windows(attention(split_windows(y, self.window)), x.shape)
        x = x + without_branches(self, y, self.drop)
        y = LayerNorm(dtype=self.dtype, name="norm2")(x)
        y = linear(c.width, name="fc2")(gelu(linear(4 * c.width, name="fc1")(y)))
        return x + without_branches(self, y, self.drop)


class Attention(nn.Module):
    """Attention of all tokens of a map to each other, with biases by row and by column.

    The biases depend on the query, and on its distance from the key (Li et al., 2021, MViTv2).
    """

    num_heads: int
    dtype: str
    run: Execution = Execution()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        n, h, w, width = x.shape
        qkv = Projection(3 * width, self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(n, h, w, 3, self.num_heads, -1), 3, 0)
        rows, columns = self._table("rel_pos_h", h, q), self._table("rel_pos_w", w, q)
        by_row = jnp.einsum("nijac,ikc->nijak", q, rows)
        by_column = jnp.einsum("nijac,jkc->nijak", q, columns)
        # The product with the position of a key, a one for its row and a one for its column, adds
        # its biases. Added to the logits, they would have to be spread over all keys first.
        q = jnp.concatenate([q * q.shape[-1] ** -0.5, by_row, by_column], axis=-1)
        at = jnp.broadcast_to(one_hot_positions(h, w)[:, :, None], (n, h, w, self.num_heads, h + w))
        k = jnp.concatenate([k, at.astype(k.dtype)], axis=-1)
        q, k, v = (y.reshape(n, h * w, self.num_heads, -1) for y in (q, k, v))
        y = attend(q, k, v, self.run.attention_chunk)
        return Projection(width, self.dtype, name="proj")(y.reshape(n, h, w, width))

    def _table(self, name: str, side: int, q: Array) -> Float[Array, "side side c"]:
        """The learned vector for each pair of positions on an axis."""
        shape = 2 * side - 1, q.shape[-1]
        table = self.param(name, nn.initializers.zeros, shape)
        return by_distance(table.astype(self.dtype), side)


def split_windows(x: Float[Array, "b h w c"], side: int) -> Float[Array, "n side side c"]:
    """Cuts maps into windows; zeros fill those at the border, and are attended to."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    x = x.reshape(b, -(-h // side), side, -(-w // side), side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, c)


def merge_windows(
    windows: Float[Array, "n side side c"], shape: tuple[int, ...]
) -> Float[Array, "b h w c"]:
    """The inverse of `split_windows`, for maps of a shape ``[b, h, w, c]``."""
    b, h, w, c = shape
    side = windows.shape[1]
    x = windows.reshape(b, -(-h // side), -(-w // side), side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h + -h % side, w + -w % side, c)[:, :h, :w]


def one_hot_positions(height: int, width: int) -> Float[np.ndarray, "h w h+w"]:
    """For each cell of a map a one for its row, among all rows, and a one for its column."""
    rows, columns = np.eye(height, dtype=np.float32), np.eye(width, dtype=np.float32)
    return np.concatenate([rows.repeat(width, 0), np.tile(columns, (height, 1))], 1).reshape(
        height, width, -1
    )


def by_distance(table: Float[Array, "d c"], side: int) -> Float[Array, "side side c"]:
    """The row of a table for each pair of positions: that of their distance, from ``1 - side``."""
    index = np.arange(side)
    return table[index.reshape(-1, 1) - index + side - 1]


def resized(positions: Float[Array, "1 p c"], side: int) -> Float[Array, "1 side side c"]:
    """Learned positions on another grid, by cubic interpolation.

    The first position, which belongs to no patch, is left out. The rule is that of PyTorch's
    ``interpolate`` with ``mode="bicubic"``.
    """
    grid = positions[0, 1:].reshape(POSITIONS, POSITIONS, -1)
    matrix = jnp.asarray(cubic(POSITIONS, side), positions.dtype)
    return jnp.einsum("ip,jq,pqc->ijc", matrix, matrix, grid)[None]


def cubic(inputs: int, outputs: int) -> Float[np.ndarray, "o i"]:
    """The matrix of cubic interpolation along an axis; cells beyond the border repeat it."""
    places = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5  # Centres of cells.
    matrix = np.zeros((outputs, inputs))
    for offset in (-1, 0, 1, 2):
        cells = np.floor(places) + offset
        distance = np.abs(places - cells)
        near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
        far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        columns = np.clip(cells, 0, inputs - 1).astype(int)
        np.add.at(matrix, (np.arange(outputs), columns), np.where(distance <= 1, near, far))
    return matrix
