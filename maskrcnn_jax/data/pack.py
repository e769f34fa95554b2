"""The last stage of the pipeline: packs a sample into the static shapes of its bucket."""

import jax
import numpy as np

from maskrcnn_jax import resizing
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.masks import to_bitmap, to_crop
from maskrcnn_jax.data.sample import Sample
from maskrcnn_jax.structures import Batch, Bitmaps, Crops, Instances


def batch_shapes(
    config: Config, bucket: tuple[int, int], batch_size: int, *, masks: bool = True
) -> Batch:
    """Returns the shapes and dtypes of a training batch, as `jax.ShapeDtypeStruct`.

    Args:
        config: ``config.model.image_mean`` has one number for each channel of the images.
        bucket: Height and width of the padded images.
        batch_size: Number of images.
        masks: Whether the batch has masks. A model without a mask head needs none.
    """
    dtype = np.dtype(config.data.image_dtype)
    row = _row_shapes(config.data, bucket, len(config.model.image_mean), dtype, masks)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype), row)


def _row_shapes(
    config: DataConfig, bucket: tuple[int, int], num_channels: int, dtype: np.dtype, masks: bool
) -> Batch:
    """Returns the shapes and dtypes of one image: a `Batch` without the axis b."""
    slots, shape = config.max_instances, jax.ShapeDtypeStruct
    stored = None
    if masks and config.mask_store == "full":
        stored = Bitmaps(shape((slots, *bucket), np.uint8))
    elif masks:
        stored = Crops(shape((slots, config.mask_size, config.mask_size), np.uint8))
    return Batch(
        images=shape((*bucket, num_channels), dtype),
        sizes=shape((2,), np.int32),
        canvas=shape((2,), np.int32),
        image_id=shape((), np.int32),
        instances=Instances(
            boxes=shape((slots, 4), np.float32),
            classes=shape((slots,), np.int32),
            masks=stored,
            valid=shape((slots,), np.bool_),
        ),
        num_surplus=shape((), np.int32),
        num_removed=shape((), np.int32),
    )


def nothing(
    image_id: int,
    bucket: tuple[int, int],
    config: DataConfig,
    *,
    num_channels: int = 3,
    dtype: str = "uint8",
    masks: bool = True,
) -> Batch:
    """An image of size 0, which takes no part in any loss: no anchor or proposal lies in it.

    Args:
        image_id: The id of an image that cannot be read.
        bucket: Height and width of the padded images.
        config: Gives the number of slots, and the form and size of masks.
        num_channels: Of the images.
        dtype: Of the images.
        masks: Whether to store masks.
    """
    shapes = _row_shapes(config, bucket, num_channels, np.dtype(dtype), masks)
    row = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    none = np.int32(0)
    return row._replace(image_id=np.int32(image_id), num_surplus=none, num_removed=none)


def pack(
    sample: Sample, bucket: tuple[int, int], config: DataConfig, *, masks: bool = True
) -> Batch:
    """Pads one image to its bucket and puts its objects into the slots of a batch.

    Objects whose box is empty are dropped; ``num_removed`` counts them and those that transforms
    removed. The first ``config.max_instances`` of the others get a slot; ``num_surplus`` counts the
    rest.

    Args:
        sample: The image and its objects.
        bucket: Height and width of the padded image.
        config: Gives the number of slots, and the form and size of masks.
        masks: Whether to store masks.

    Returns:
        A `Batch` of NumPy arrays without the axis b.

    Raises:
        ValueError: The image is larger than its bucket, or ``masks`` is True and an object has no
            mask.
    """
    size, num_channels, dtype = sample.image.shape[:2], sample.image.shape[2], sample.image.dtype
    if size[0] > bucket[0] or size[1] > bucket[1]:
        given, largest = (f"{height}x{width}" for height, width in (size, bucket))
        raise ValueError(
            f"image id {sample.image_id} is of {given} pixels, "
            f"more than its bucket of {largest} holds"
        )
    boxes = sample.boxes.astype(np.float32)
    visible = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
    chosen = samples.select(sample, visible[: config.max_instances])
    count = len(chosen.boxes)
    shapes = _row_shapes(config, bucket, num_channels, dtype, masks)
    row = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    row.images[: size[0], : size[1]] = sample.image
    row.sizes[:] = size
    row.canvas[:] = resizing.canvas_of(size, config.padding)
    row.instances.boxes[:count] = chosen.boxes
    row.instances.classes[:count] = chosen.classes
    row.instances.valid[:count] = True
    if masks:
        _draw_masks(row.instances.masks, chosen, config)
    return row._replace(
        image_id=np.int32(sample.image_id),
        num_surplus=np.int32(len(visible) - count),
        num_removed=np.int32(sample.num_removed + len(boxes) - len(visible)),
    )


def _draw_masks(stored: Crops | Bitmaps, sample: Sample, config: DataConfig) -> None:
    """Rasterises the masks into the first slots."""
    height, width = sample.image.shape[:2]
    for slot, mask, box in zip(stored.values, sample.masks, sample.boxes, strict=False):
        if mask is None:
            raise ValueError(
                f"image id {sample.image_id} has an object without a mask: "
                "open its data set with masks"
            )
        if isinstance(stored, Bitmaps):
            slot[:height, :width] = to_bitmap(mask, (height, width))
        else:
            slot[:] = to_crop(mask, box, config.mask_size)
