"""Contenders that run single operators on the pyramid of an 800x1088 image, 256 channels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.contender import Run

CHANNELS = 256


def roi_align(count: int, resolution: int, sampling_ratio: int, backward: bool = False) -> Run:
    """Our RoIAlign over P2 to P5, or the cotangent of the pyramid."""
    import jax
    import jax.numpy as jnp

    from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align

    canvas = jnp.array(inputs.TRAINING)
    pyramid = {level: jnp.asarray(x) for level, x in _pyramid().items()}
    rois = jnp.asarray(inputs.boxes(count, inputs.TRAINING))

    def align(pyramid: dict[int, Any], rois: Any) -> Any:
        settings = {"resolution": resolution, "sampling_ratio": sampling_ratio, "aligned": False}
        return multilevel_roi_align(pyramid, rois, canvas, **settings)

    if not backward:
        forward = jax.jit(align)
        return lambda: np.asarray(forward(pyramid, rois).block_until_ready())

    @jax.jit
    def transpose(pyramid: dict[int, Any], rois: Any, cotangent: Any) -> dict[int, Any]:
        _, vjp = jax.vjp(lambda x: align(x, rois), pyramid)
        return vjp(cotangent)[0]

    cotangent = jnp.asarray(_cotangent(count, resolution))

    def run() -> list[np.ndarray]:
        gradients = jax.block_until_ready(transpose(pyramid, rois, cotangent))
        return [np.asarray(x) for x in gradients.values()]

    return run


def torchvision_roi_align(
    count: int, resolution: int, sampling_ratio: int, backward: bool = False
) -> Run:
    """torchvision's `MultiScaleRoIAlign` on the same inputs; the results have channels last."""
    from maskrcnn_jax.parity import reference

    import torch  # isort: skip  (after the reference)

    pool = reference.MultiScaleRoIAlign(list("0123"), resolution, sampling_ratio)
    pyramid = {
        str(level - 2): torch.from_numpy(x).permute(2, 0, 1)[None].contiguous()
        for level, x in _pyramid().items()
    }
    rois = [torch.from_numpy(inputs.boxes(count, inputs.TRAINING))]
    sizes = [inputs.TRAINING]
    if not backward:
        return lambda: pool(pyramid, rois, sizes).permute(0, 2, 3, 1).numpy()
    leaves = [x.requires_grad_() for x in pyramid.values()]
    pooled = pool(pyramid, rois, sizes)
    cotangent = torch.from_numpy(_cotangent(count, resolution)).permute(0, 3, 1, 2).contiguous()

    def run() -> list[np.ndarray]:
        gradients = torch.autograd.grad(pooled, leaves, cotangent, retain_graph=True)
        return [x[0].permute(1, 2, 0).numpy() for x in gradients]

    return run


def proposals_nms(count: int) -> Run:
    """Our NMS of the candidates of five levels, within levels, at an IoU of 0.7."""
    import jax
    import jax.numpy as jnp

    from maskrcnn_jax.ops import nms

    boxes, _ = _level_boxes(count)
    suppress = jax.jit(jax.vmap(lambda b: nms.suppress(b, jnp.ones(len(b), bool), 0.7)))
    boxes = jnp.asarray(boxes)
    return lambda: np.asarray(suppress(boxes)).reshape(-1)


def torchvision_proposals_nms(count: int) -> Run:
    """torchvision's `batched_nms` on the same inputs, with its result converted to a mask."""
    boxes, scores = _level_boxes(count)
    levels = np.repeat(np.arange(5), count)
    return _torchvision_nms(boxes.reshape(-1, 4), scores.reshape(-1), levels, 0.7)


def class_nms(count: int, num_classes: int) -> Run:
    """Our NMS within classes at an IoU of 0.5, for the best 100 boxes."""
    import jax
    import jax.numpy as jnp

    from maskrcnn_jax.ops import nms

    boxes, scores, classes = _class_boxes(count, num_classes)
    select = jax.jit(lambda *arrays: nms.select(*arrays, 0.5, num_selected=100))
    arrays = [jnp.asarray(x) for x in (boxes, np.ones(count, bool), classes)]

    def run() -> np.ndarray:
        selected, found = select(*arrays)
        return np.asarray(selected)[np.asarray(found)]

    return run


def torchvision_class_nms(count: int, num_classes: int) -> Run:
    """torchvision's `batched_nms` on the same inputs, and the first 100 results."""
    from maskrcnn_jax.parity import reference

    import torch  # isort: skip  (after the reference)

    boxes, scores, classes = (torch.from_numpy(x) for x in _class_boxes(count, num_classes))
    return lambda: reference.torchvision.ops.batched_nms(boxes, scores, classes, 0.5)[:100].numpy()


def paste(size: inputs.Size) -> Run:
    """Pastes 100 masks into an image of this size with our function."""
    from maskrcnn_jax import pasting

    masks, boxes = paste_inputs(size)
    return lambda: pasting.paste(masks, boxes, size)


def torchvision_paste(size: inputs.Size) -> Run:
    """torchvision's `paste_masks_in_image` on the same inputs."""
    from maskrcnn_jax.parity import reference  # noqa: F401  (loads torchvision)

    import torch  # isort: skip  (after the reference)
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, boxes = (torch.from_numpy(x) for x in paste_inputs(size))
    return lambda: paste_masks_in_image(masks[:, None], boxes, size)[:, 0].numpy()


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference over the largest value, computed by rows to save memory."""
    largest = max(float(np.abs(row).max()) for row in a)
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True)) / max(largest, 1e-12)


def compare_arrays(tolerance: float) -> Callable[[Any, Any], str]:
    """Compares arrays, or lists of arrays, within a tolerance relative to the largest value."""

    def compare(theirs: Any, ours: Any) -> str:
        pairs = zip(theirs, ours, strict=True) if isinstance(theirs, list) else [(theirs, ours)]
        worst = max(_difference(a, b) for a, b in pairs)
        if worst > tolerance:
            raise ValueError(f"the results differ by {worst:.1e} of the largest value")
        return f"differ by at most {worst:.1e} of the largest value"

    return compare


def compare_indices(theirs: np.ndarray, ours: np.ndarray) -> str:
    """Compares the surviving boxes. Raises ValueError if they differ."""
    if not np.array_equal(theirs, ours):
        number = np.sum(theirs != ours) if theirs.shape == ours.shape else "many"
        raise ValueError(f"{number} boxes differ")
    return "the same boxes"


def _pyramid() -> dict[int, np.ndarray]:
    random, (height, width) = np.random.default_rng(0), inputs.TRAINING
    found = {}
    for level in range(2, 6):
        shape = (-(-height // 2**level), -(-width // 2**level), CHANNELS)
        found[level] = random.standard_normal(shape, np.float32)
    return found


def _cotangent(count: int, resolution: int) -> np.ndarray:
    shape = (count, resolution, resolution, CHANNELS)
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def _level_boxes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of five levels by descending score, which crowd around objects as proposals do."""
    random = np.random.default_rng(2)
    objects = inputs.boxes(60, inputs.TRAINING, seed=3)
    boxes = objects[random.integers(0, len(objects), (5, count))]
    sides = boxes[..., 2:] - boxes[..., :2]
    boxes = boxes + random.normal(0, 0.12, boxes.shape) * np.concatenate([sides, sides], axis=-1)
    scores = np.sort(random.random((5, count)), axis=1)[:, ::-1]
    return boxes.astype(np.float32), scores.astype(np.float32)


def _class_boxes(count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, _ = _level_boxes(count)
    random = np.random.default_rng(4)
    scores = np.sort(random.permutation(count).astype(np.float32) / count)[::-1].copy()
    return boxes[0], scores, random.integers(1, num_classes + 1, count).astype(np.int32)


def paste_inputs(size: inputs.Size) -> tuple[np.ndarray, np.ndarray]:
    """100 masks of noise, and boxes for the masks in an image of this size."""
    masks = np.random.default_rng(5).random((100, 28, 28), np.float32)
    scale = np.float32(min(size) / 800)
    boxes = inputs.boxes(100, (int(size[0] / scale), int(size[1] / scale)), seed=6) * scale
    return masks, boxes


def _torchvision_nms(
    boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float
) -> Run:
    from maskrcnn_jax.parity import reference

    import torch  # isort: skip  (after the reference)

    tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in (boxes, scores, groups)]
    survives = np.zeros(len(boxes), bool)

    def run() -> np.ndarray:
        kept = reference.torchvision.ops.batched_nms(*tensors, threshold)
        survives[:] = False
        survives[kept.numpy()] = True
        return survives

    return run
