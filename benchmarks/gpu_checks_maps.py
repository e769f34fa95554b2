"""Compares ops on maps and masks with NumPy on the accelerator at hand, for `benchmarks.gpu`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import gpu_models
from benchmarks.gpu_checks import BFLOAT16, CANVAS, FLOAT32, TF32, Check
from maskrcnn_jax.modules import layers
from maskrcnn_jax.ops import masks, windows
from maskrcnn_jax.ops.convolution import conv
from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align
from maskrcnn_jax.ops.roi_pooling.maxima import multilevel_roi_pool


def of_maps() -> dict[str, Callable[[], Check]]:
    """The checks of ops on maps and masks."""
    found: dict[str, Callable[[], Check]] = {}
    for form in ("gather", "einsum"):
        found[f"RoIAlign, {form}"] = partial(roi_align, form, 2, False)
        found[f"RoIAlign, {form}, aligned, adaptive"] = partial(roi_align, form, 0, True)
        found[f"RoIAlign's gradient, {form}"] = partial(roi_align_gradient, form)
    found["gradient of a bias, bfloat16"] = bias_gradient
    for dtype in ("float32", "bfloat16"):
        for side, stride in ((3, 1), (3, 2), (1, 1), (1, 2)):
            name = f"convolution {side}x{side}, stride {stride}, and its gradients, {dtype}"
            found[name] = partial(convolve, side, stride, dtype)
    found |= {"masks from crops": crop_masks, "masks projected": project}
    return found | {"RoIPool": roi_pool, "windows": read_windows}


def roi_align(form: str, sampling_ratio: int, aligned: bool) -> Check:
    """RoIAlign over four levels against a loop over samples."""
    from tests import oracles

    random = np.random.default_rng(0)
    pyramid = {
        level: random.normal(size=(CANVAS[0] >> level, CANVAS[1] >> level, 4)).astype("f")
        for level in range(2, 6)
    }
    rois = gpu_models.boxes(24, CANVAS)
    rois[-2:] = [[-20, 30, 60, 700], [1, 2, 500, 480]]  # Beyond the image; on P5.
    settings = {"resolution": 7, "sampling_ratio": sampling_ratio, "aligned": aligned}
    align = partial(multilevel_roi_align, canvas=jnp.array(CANVAS), form=form, **settings)
    sides = np.sqrt((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1]))
    levels = np.clip(np.floor(4 + np.log2(sides / 224)), 2, 5).astype(int)
    expected = np.zeros((len(rois), 7, 7, 4))
    for level, features in pyramid.items():
        on_level = levels == level
        scaled = features, rois[on_level], 1 / 2**level
        expected[on_level] = oracles.roi_align(*scaled, 7, sampling_ratio, aligned)
    return Check(jax.jit(align)(pyramid, rois), expected, FLOAT32)


def roi_align_gradient(form: str) -> Check:
    """The transpose of the matrix that the loop gives for one-hot maps."""
    from tests import oracles

    height, width, channels = 12, 14, 8
    random, cells = np.random.default_rng(1), height * width
    rois = gpu_models.boxes(40, (4 * height, 4 * width))
    cotangent = random.normal(size=(40, 7, 7, channels)).astype("f")
    one_hot = np.eye(cells).reshape(height, width, cells)
    matrix = oracles.roi_align(one_hot, rois, 1 / 4, 7, 2, False)
    expected = np.einsum("rijn,rijc->nc", matrix, cotangent).reshape(height, width, channels)
    settings = {"resolution": 7, "sampling_ratio": 2, "aligned": False, "form": form}
    canvas = jnp.array([4 * height, 4 * width])

    def gradient(features: Any, rois: Any, cotangent: Any) -> Any:
        align = partial(multilevel_roi_align, boxes=rois, canvas=canvas, **settings)
        return jax.vjp(lambda x: align({2: x}), features)[1](cotangent)[0]

    features = np.zeros((height, width, channels), "f")
    return Check(jax.jit(gradient)(features, rois, cotangent), expected, FLOAT32)


def roi_pool() -> Check:
    from tests import oracles

    random = np.random.default_rng(2)
    features, rois = random.normal(size=(16, 20, 3)).astype("f"), gpu_models.boxes(12, (64, 80))
    pool = partial(multilevel_roi_pool, canvas=jnp.array([64, 80]), resolution=7)
    expected = oracles.roi_pool(features, rois, 1 / 4, 7)[0]
    return Check(jax.jit(pool)({2: features}, rois), expected)


def convolve(side: int, stride: int, dtype: str) -> Check:
    """A convolution and both of its gradients, as a sum over the cells of the kernel."""
    random = np.random.default_rng(7)
    x = jnp.asarray(random.normal(size=(2, 20, 24, 32)), dtype)
    kernel = jnp.asarray(random.normal(size=(side, side, 32, 48)), dtype)
    rows, columns = -(-20 // stride), -(-24 // stride)
    cotangent = jnp.asarray(random.normal(size=(2, rows, columns, 48)), dtype)

    def ours(x: Any, kernel: Any, cotangent: Any) -> Any:
        y, pullback = jax.vjp(partial(conv, stride=stride), x, kernel)
        return y, *pullback(cotangent)

    result = jax.jit(ours)(x, kernel, cotangent)
    x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y, x_gradient, kernel_gradient = 0.0, np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(side, side):
        cells = np.s_[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        seen = padded[cells][:, :rows, :columns]
        y = y + seen @ kernel[i, j]
        x_gradient[cells] += (cotangent @ kernel[i, j].T)[:, : seen.shape[1], : seen.shape[2]]
        kernel_gradient[i, j] = np.einsum("bhwi,bhwo->io", seen, cotangent)
    expected = y, x_gradient[:, pad : pad + 20, pad : pad + 24], kernel_gradient
    return Check(result, expected, TF32 if dtype == "float32" else BFLOAT16)


def bias_gradient() -> Check:
    """A long sum of bfloat16, which must not be added in bfloat16."""
    cotangent = np.random.default_rng(8).uniform(0, 1, (1, 200, 336, 8))
    rounded = jnp.asarray(cotangent, jnp.bfloat16)

    def gradient(cotangent: Any) -> Any:
        y = jnp.zeros_like(cotangent)
        return jax.vjp(partial(layers.add_bias, y), jnp.zeros(8))[1](cotangent)[0]

    expected = np.asarray(rounded, np.float64).sum((0, 1, 2))
    return Check(jax.jit(gradient)(rounded), expected, FLOAT32)


def crop_masks() -> Check:
    """Masks of two pixels per cell, cut at whole pixels."""
    mask = np.random.default_rng(9).integers(0, 2, (8, 8)).astype(np.uint8) * 255
    image = np.zeros((40, 40))
    image[10:26, 4:20] = np.kron(mask, np.ones((2, 2))) / 255
    rois = np.array([[4, 10, 20, 26], [0, 6, 12, 30], [8, 12, 12, 16]])
    crop = partial(masks.crop_and_resize, resolution=4)
    given = np.stack([mask] * 3), np.float32([[4, 10, 20, 26]] * 3), rois.astype("f")
    expected = [
        image[y0:y1, x0:x1].reshape(4, (y1 - y0) // 4, 4, (x1 - x0) // 4).mean(axis=(1, 3))
        for x0, y0, x1, y1 in rois
    ]
    return Check(jax.jit(crop)(*given), np.stack(expected), FLOAT32)


def project() -> Check:
    from tests import oracles

    values = np.random.default_rng(10).integers(0, 2, (3, 40, 50)).astype(np.uint8) * 255
    rois, size = gpu_models.boxes(6, (40, 50)), np.array([40, 50])
    instances = np.arange(6) % 3
    ours = jax.jit(partial(masks.project, resolution=14))(values, instances, rois, size)
    expected = [
        oracles.roi_align(values[i, ..., None] / 255, roi[None], 1.0, 14, 0, False)[0, ..., 0]
        for i, roi in zip(instances, rois, strict=True)
    ]
    return Check(ours, np.stack(expected), FLOAT32)


def read_windows() -> Check:
    features = np.random.default_rng(11).normal(size=(9, 11, 4)).astype("f")
    indices = np.array([0, 98, 99, 150, 296])  # Of 3 ratios with 99 cells each.
    read = partial(windows.windows_at, num_anchors=3, radius=1)
    ours = jax.jit(read)({2: features}, {2: np.array([9, 11])}, indices)
    padded, inside = np.pad(features, ((1, 1), (1, 1), (0, 0))), np.pad(np.ones((9, 11, 1)), 1)
    inside = inside[:, :, 1:2] > 0
    cells = [divmod(cell, 11) for cell in indices % 99]
    expected = [
        np.stack([x[row : row + 3, column : column + 3] for row, column in cells])
        for x in (padded, inside)
    ]
    return Check(ours, (*expected, indices // 99))
