"""RoIAlign over a feature pyramid, by the exact rule of torchvision's and Detectron2's C++ kernels.

Each RoI is cut into ``resolution x resolution`` bins, and a bin is the mean of ``sampling_ratio x sampling_ratio``
bilinear samples. So pooling is a linear map of the features, whose coefficients come from the boxes alone. It is
computed in one of two forms, with the same result: `roi_align_gather` reads the cells it needs, `roi_align_einsum`
multiplies matrices.
"""

from functools import partial
from types import ModuleType

import jax
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops import roi_align_einsum, roi_align_gather
from maskrcnn_jax.ops.roi_taps import RoIs, Rule, place

Pyramid = dict[int, Float[Array, "_h _w c"]]
FORMS = {"gather": roi_align_gather, "einsum": roi_align_einsum}


def multilevel_roi_align(
    pyramid: Pyramid,
    boxes: Float[Array, "r 4"],
    canvas: Int[Array, "2"],
    *,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
    form: str = "auto",
) -> Float[Array, "r p p c"]:
    """Pools each box of one image from the level that fits its size.

    Args:
        pyramid: Feature maps of consecutive levels; the stride of level l is ``2**l``.
        boxes: In pixels of the padded image; boxes with coordinates that are not finite may pool zeros.
        canvas: Height and width of the padded image, in pixels. The maps end with it, rounded up to whole cells, though
            their arrays may be larger.
        sampling_ratio: Samples per bin and axis; 0 for ``ceil(roi_size / resolution)``, the size in cells.
        aligned: Correct to half a pixel, as Detectron2's ROIAlignV2. False is torchvision's rule: half a cell off, and
            boxes of at least one cell.
        form: "gather", "einsum", or "auto" for what suits the device that the program is compiled for: a gather on a
            CPU, einsums on a TPU. A GPU gathers, but takes the gradient by einsums: adding up with atomic operations
            is not repeatable, and very slow in jaxlib 0.10.2 to 0.11.0.

    Samples more than a cell outside the map are zero. Differentiable in reverse mode by the features only; sums are
    float32 whatever the dtype of the features, and weights too but for those of an einsum with bfloat16 features.

    Raises:
        ValueError: If ``sampling_ratio`` is negative, or there is no such form.
    """
    if sampling_ratio < 0:
        raise ValueError(
            f"sampling_ratio must be positive, or 0 for an adaptive number of samples; got {sampling_ratio}"
        )
    if form not in ("auto", *FORMS):
        raise ValueError(f'RoIAlign is computed by "auto", "gather" or "einsum"; got {form!r}')
    return _align(
        pyramid, place(boxes, canvas, tuple(sorted(pyramid))), Rule(resolution, sampling_ratio, aligned), form
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _align(pyramid: Pyramid, rois: RoIs, rule: Rule, form: str) -> Float[Array, "r p p c"]:
    maps = [pyramid[level] for level in sorted(pyramid)]

    def pool(form: ModuleType, maps: list[Array], rois: RoIs) -> Array:
        return form.pool(maps, rois, rule).astype(maps[0].dtype)

    if form != "auto":
        return pool(FORMS[form], maps, rois)
    gather, einsum = partial(pool, roi_align_gather), partial(pool, roi_align_einsum)
    return jax.lax.platform_dependent(maps, rois, tpu=einsum, default=gather)


def _forward(pyramid, rois, rule, form):
    shapes = jax.tree.map(lambda x: x[:, :, :0], pyramid)  # The pyramid itself would be kept in memory.
    return _align(pyramid, rois, rule, form), (shapes, rois)


def _backward(rule, form, residuals, gradient):
    pyramid, rois = residuals
    levels = sorted(pyramid)
    shapes = [(*pyramid[level].shape[:2], gradient.shape[-1]) for level in levels]

    def transpose(form: ModuleType, gradient: Array, rois: RoIs) -> list[Array]:
        return [x.astype(gradient.dtype) for x in form.transpose(gradient, shapes, rois, rule)]

    if form != "auto":
        maps = transpose(FORMS[form], gradient, rois)
    else:
        gather, einsum = partial(transpose, roi_align_gather), partial(transpose, roi_align_einsum)
        maps = jax.lax.platform_dependent(gradient, rois, tpu=einsum, cuda=einsum, rocm=einsum, default=gather)
    return dict(zip(levels, maps, strict=True)), None


_align.defvjp(_forward, _backward)
