"""Operators on one accelerator, ours in all forms and torchvision's, for `benchmarks.gpu`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import gpu_models, gpu_timing
from benchmarks.gpu_models import Size
from benchmarks.gpu_timing import Row
from maskrcnn_jax.ops import matching, nms, ranking
from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align

NUM_IMAGES, CHANNELS = 2, 256


class Operator(NamedTuple):
    """The forms of an operator: functions with the same arguments and the same result."""

    forms: dict[str, Callable[..., Any]]
    arguments: tuple[Any, ...]
    torchvision: Callable[[], Callable[[], Any]]  # Makes torchvision's operator on the GPU.


def all_of(bucket: Size) -> dict[str, Callable[[], Operator]]:
    """Functions that make the operators, by name."""
    cells = bucket[0] * bucket[1] // 16  # Cells of P2.
    return {
        "RoIAlign, 512 of 7x7": partial(roi_align, 512, 7, bucket),
        "RoIAlign backward, 512 of 7x7": partial(roi_align_backward, 512, 7, bucket),
        "RoIAlign, 128 of 14x14": partial(roi_align, 128, 14, bucket),
        "RoIAlign backward, 128 of 14x14": partial(roi_align_backward, 128, 14, bucket),
        "top 2000 of P2": partial(top_k, 3 * cells, min(2000, cells // 16)),
        "NMS, 5 levels of 2000": partial(suppress, 2000, bucket),
        "matching of P2's anchors, 100 objects": partial(match, 3 * cells),
    }


def measure(name: str, make: Callable[[], Operator], repeats: int) -> dict[str, Row]:
    """Measures each form: time, XLA's costs, and the difference from the first form.

    The difference is relative to the largest value of the first form.
    """
    operator, rows, first = make(), {}, None
    for form, function in operator.forms.items():
        program, row = gpu_timing.compile_for(jax.jit(function), *operator.arguments)
        result = jax.tree.leaves(program(*operator.arguments))
        first = first or result
        row["difference"] = max(map(_difference, first, result))

        def calls(count: int, program: Any = program) -> None:
            for _ in range(count):
                found = program(*operator.arguments)
            jax.block_until_ready(found)

        row["seconds"] = gpu_timing.seconds_each(calls, repeats)
        rows[f"{name}, {form}"] = row
    return rows


def torchvision(make: Callable[[], Operator], repeats: int) -> Row:
    """Times torchvision's operator."""
    return {"seconds": gpu_timing.torch_seconds_each(make().torchvision(), repeats)}


def roi_align(count: int, resolution: int, bucket: Size) -> Operator:
    """RoIAlign over P2 to P5 of two images, in bfloat16."""
    pyramid, rois = _pyramid(bucket), _rois(count, bucket)
    forms = {form: _align(form, resolution, bucket) for form in ("gather", "einsum")}

    def make() -> Callable[[], Any]:
        pool, maps, rows, sizes = _torchvision_align(count, resolution, bucket)
        return lambda: pool(maps, rows, sizes)

    return Operator(forms, (pyramid, rois), make)


def roi_align_backward(count: int, resolution: int, bucket: Size) -> Operator:
    """The backward pass of RoIAlign: the cotangent of the pyramid."""
    pyramid, rois = _pyramid(bucket), _rois(count, bucket)
    upstream = jnp.ones((NUM_IMAGES, count, resolution, resolution, CHANNELS), jnp.bfloat16)

    def transpose(align: Callable[..., Any], pyramid: Any, rois: Any, upstream: Any) -> Any:
        return jax.vjp(lambda x: align(x, rois), pyramid)[1](upstream)[0]

    aligns = {form: _align(form, resolution, bucket) for form in ("gather", "einsum")}
    forms = {form: partial(transpose, align) for form, align in aligns.items()}

    def make() -> Callable[[], Any]:
        import torch

        pool, maps, rows, sizes = _torchvision_align(count, resolution, bucket)
        pooled = pool({name: x.requires_grad_() for name, x in maps.items()}, rows, sizes)
        ones, leaves = torch.ones_like(pooled), list(maps.values())
        return lambda: torch.autograd.grad(pooled, leaves, ones, retain_graph=True)

    return Operator(forms, (pyramid, rois, upstream), make)


def top_k(length: int, count: int) -> Operator:
    """Top-k of the logits of two images."""
    logits = jax.random.normal(jax.random.key(0), (NUM_IMAGES, length))
    chosen = jax.vmap(partial(ranking.top_k, count=count))
    forms = {"whole": partial(jax.lax.top_k, k=count), "as chosen": chosen}

    def make() -> Callable[[], Any]:
        import torch

        tensor = torch.from_numpy(np.array(logits)).cuda()
        return lambda: tensor.topk(count)

    return Operator(forms, (logits,), make)


def suppress(count: int, bucket: Size) -> Operator:
    """NMS at an IoU of 0.7 for boxes that crowd around 60 objects, as proposals do."""
    random = np.random.default_rng(2)
    boxes = gpu_models.boxes(60, bucket, seed=3)[random.integers(0, 60, (5, count))]
    sides = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
    boxes = (boxes + random.normal(0, 0.12, boxes.shape) * sides).astype(np.float32)

    def make() -> Callable[[], Any]:
        import torch
        from torchvision.ops import batched_nms

        scores = torch.linspace(1, 0, count).repeat(5).cuda()
        levels = torch.arange(5).repeat_interleave(count).cuda()
        flat = torch.from_numpy(boxes.reshape(-1, 4)).cuda()
        return lambda: batched_nms(flat, scores, levels, 0.7)

    form = jax.vmap(partial(nms.suppress, threshold=0.7))
    return Operator({"as chosen": form}, (jnp.asarray(boxes), jnp.ones((5, count), bool)), make)


def match(num_anchors: int) -> Operator:
    """Matches the anchors of two images given their IoU matrix, with low-quality matches."""
    overlaps = jax.random.uniform(jax.random.key(0), (NUM_IMAGES, 100, num_anchors))
    thresholds = {"positive_iou": 0.7, "negative_iou": 0.3}
    form = jax.vmap(partial(matching.match, **thresholds, low_quality=True))

    def make() -> Callable[[], Any]:
        import torch
        from torchvision.models.detection._utils import Matcher

        images = [torch.from_numpy(np.array(rows)).cuda() for rows in overlaps]
        matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        return lambda: [matcher(rows) for rows in images]

    return Operator({"the only form": form}, (overlaps, jnp.ones((NUM_IMAGES, 100), bool)), make)


def _align(form: str, resolution: int, bucket: Size) -> Callable[..., Any]:
    settings = {"resolution": resolution, "sampling_ratio": 2, "aligned": False, "form": form}
    return jax.vmap(partial(multilevel_roi_align, canvas=jnp.array(bucket), **settings))


def _pyramid(bucket: Size) -> dict[int, Any]:
    found = {}
    for level in range(2, 6):
        shape = (NUM_IMAGES, bucket[0] >> level, bucket[1] >> level, CHANNELS)
        found[level] = jax.random.normal(jax.random.key(level), shape, jnp.bfloat16)
    return found


def _rois(count: int, bucket: Size) -> Any:
    return jnp.stack([gpu_models.boxes(count, bucket, seed) for seed in range(NUM_IMAGES)])


def _torchvision_align(
    count: int, resolution: int, bucket: Size
) -> tuple[Any, dict[str, Any], list[Any], list[Size]]:
    import torch
    from torchvision.ops import MultiScaleRoIAlign

    maps = {}
    for level in range(2, 6):
        shape = (NUM_IMAGES, CHANNELS, bucket[0] >> level, bucket[1] >> level)
        maps[str(level)] = torch.randn(*shape, device="cuda")
    rois = [torch.from_numpy(np.array(rows)).cuda() for rows in _rois(count, bucket)]
    return MultiScaleRoIAlign(list(maps), resolution, 2), maps, rois, [bucket] * NUM_IMAGES


def _difference(a: Any, b: Any) -> float:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(a).max(), 1e-12))
