"""RoIAlign and its gradient on one accelerator, for RoIs that overlap and RoIs that do not.

On a GPU the gradient is added by atomic operations, which wait for each other where RoIs overlap,
as they do once a network has learned something.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import gpu_models, gpu_timing
from benchmarks.gpu_models import Setup, Size
from benchmarks.gpu_timing import Row
from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align

NUM_IMAGES, NUM_ROIS, CHANNELS, RESOLUTION = 4, 512, 256, 7
JITTER = 0.05  # Of RoIs that overlap, as a part of the sides of their object.
FORMS = "gather", "einsum"


def roi_align(setup: Setup, form: str, *, backward: bool, overlapping: bool) -> Row:
    """Times one form of RoIAlign over P2 to P5, in bfloat16."""
    rois = overlapping_rois(setup.bucket) if overlapping else spread_rois(setup.bucket)
    pyramid, align = _pyramid(setup.bucket), _align(form, setup.bucket)
    arguments = [pyramid, jnp.asarray(rois)]
    function: Callable[..., Any] = align
    if backward:
        shape = NUM_IMAGES, NUM_ROIS, RESOLUTION, RESOLUTION, CHANNELS
        arguments.append(jax.random.normal(jax.random.key(1), shape, jnp.bfloat16))
        function = partial(_transpose, align)
    program, row = gpu_timing.compile_for(jax.jit(function), *arguments)

    def calls(count: int) -> None:
        for _ in range(count):
            found = program(*arguments)
        jax.block_until_ready(found)

    return row | {"seconds": gpu_timing.seconds_each(calls, setup.repeats)}


def spread_rois(bucket: Size) -> np.ndarray:
    """RoIs of all sizes all over the images, float32 [b, r, 4]."""
    return np.stack([gpu_models.boxes(NUM_ROIS, bucket, seed) for seed in range(NUM_IMAGES)])


def overlapping_rois(bucket: Size) -> np.ndarray:
    """RoIs close to the few objects of each image, float32 [b, r, 4]."""
    random = np.random.default_rng(0)
    objects = [gpu_models.boxes(gpu_models.NUM_OBJECTS, bucket, seed) for seed in range(NUM_IMAGES)]
    rois = np.stack([x[random.integers(0, len(x), NUM_ROIS)] for x in objects])
    sides = np.tile(rois[..., 2:] - rois[..., :2], 2)
    limits = np.array(bucket[::-1] * 2)
    moved = rois + random.normal(0, JITTER, rois.shape) * sides
    return moved.clip(0, limits).astype(np.float32)


def _align(form: str, bucket: Size) -> Callable[..., Any]:
    settings = {"resolution": RESOLUTION, "sampling_ratio": 2, "aligned": False, "form": form}
    return jax.vmap(
        lambda pyramid, rois: multilevel_roi_align(pyramid, rois, jnp.array(bucket), **settings)
    )


def _transpose(align: Callable[..., Any], pyramid: Any, rois: Any, cotangent: Any) -> Any:
    return jax.vjp(lambda x: align(x, rois), pyramid)[1](cotangent)[0]


def _pyramid(bucket: Size) -> dict[int, Any]:
    found = {}
    for level in range(2, 6):
        shape = (NUM_IMAGES, bucket[0] >> level, bucket[1] >> level, CHANNELS)
        found[level] = jax.random.normal(jax.random.key(level), shape, jnp.bfloat16)
    return found
