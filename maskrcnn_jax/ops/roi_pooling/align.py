"""RoIAlign over a feature pyramid, by the exact rule of torchvision's and Detectron2's C++ kernels.

Each RoI is cut into ``resolution x resolution`` bins, and a bin is the mean of ``sampling_ratio x
sampling_ratio`` bilinear samples (section 3 of Mask R-CNN). So pooling is a linear map of the
features, and its coefficients come from the boxes alone. Three forms compute it, with the
same result: `gather` reads the cells it needs, `einsum` multiplies matrices, `pallas` has kernels
for TPUs with much vector memory.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops.roi_pooling import einsum, gather, pallas
from maskrcnn_jax.ops.roi_pooling.placement import RoIs, place
from maskrcnn_jax.ops.roi_pooling.taps import Rule
from maskrcnn_jax.structures import ImagePyramid

FORMS = {"gather": gather, "einsum": einsum, "pallas": pallas}


def multilevel_roi_align(
    pyramid: ImagePyramid,
    boxes: Float[Array, "r 4"],
    canvas: Int[Array, "2"],
    *,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
    level_rule: str = "torchvision",
    form: str = "gather",
    gradient_form: str | None = None,
) -> Float[Array, "r p p c"]:
    """Pools each box of one image from the level that fits its size.

    Samples more than a cell outside the map are zero. Sums are float32 whatever the dtype of the
    features; the result has the dtype of the features. The einsum rounds some weights to bfloat16
    where the features are bfloat16. Only the features get a gradient, in reverse mode; boxes get
    zero.

    Args:
        pyramid: Feature maps of consecutive levels; the stride of level l is ``2**l``.
        boxes: In pixels of the padded image; boxes with coordinates that are not finite may pool
            zeros.
        canvas: Height and width of the padded image, in pixels. The maps end with it, rounded up to
            whole cells, though their arrays may be larger.
        resolution: Bins per axis.
        sampling_ratio: Samples per bin and axis; 0 for ``ceil(roi_size / resolution)``, the size in
            cells.
        aligned: Correct to half a pixel, as Detectron2's ROIAlignV2. False is torchvision's rule:
            half a cell off, and boxes of at least one cell.
        level_rule: As in `placement.assign_levels`.
        form: "gather"; "einsum"; "pallas", for a v5e or a v6e only; or "by_platform": the einsum
            where the program is compiled for a TPU, the gather elsewhere.
        gradient_form: The same for the backward pass; by default the form of the forward pass. On a
            GPU the gradient of a gather is added by atomic operations, in any order.

    Raises:
        ValueError: If ``sampling_ratio`` is negative, or there is no such form.
    """
    if sampling_ratio < 0:
        raise ValueError(
            "sampling_ratio must be positive, or 0 for an adaptive number of samples; "
            f"got {sampling_ratio}"
        )
    gradient_form = gradient_form or form
    for name in (form, gradient_form):
        if name not in (*FORMS, "by_platform"):
            expected = '"gather", "einsum", "pallas" or "by_platform"'
            raise ValueError(f"RoIAlign is computed by {expected}; got {name!r}")
    rois = place(boxes, canvas, tuple(sorted(pyramid)), level_rule)
    rule = Rule(resolution, sampling_ratio, aligned)
    return _align(pyramid, rois, rule, form, gradient_form)


def _run(function: Callable[..., Any], form: str, *arguments: Any) -> Any:
    """Calls the function with the module of the form before its other arguments."""
    if form != "by_platform":
        return function(FORMS[form], *arguments)
    tpu, default = partial(function, einsum), partial(function, gather)
    return jax.lax.platform_dependent(*arguments, tpu=tpu, default=default)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _align(
    pyramid: ImagePyramid, rois: RoIs, rule: Rule, form: str, gradient_form: str
) -> Float[Array, "r p p c"]:
    maps = [pyramid[level] for level in sorted(pyramid)]

    def pool(form: ModuleType, maps: list[Array], rois: RoIs) -> Array:
        return form.pool(maps, rois, rule).astype(maps[0].dtype)

    return _run(pool, form, maps, rois)


def _forward(pyramid, rois, rule, form, gradient_form):
    # The backward pass needs the shapes only: the pyramid as a residual would stay in memory.
    shapes = jax.tree.map(lambda x: x[:, :, :0], pyramid)
    return _align(pyramid, rois, rule, form, gradient_form), (shapes, rois)


def _backward(rule, form, gradient_form, residuals, gradient):
    pyramid, rois = residuals
    levels = sorted(pyramid)
    shapes = [(*pyramid[level].shape[:2], gradient.shape[-1]) for level in levels]

    def transpose(form: ModuleType, gradient: Array, rois: RoIs) -> list[Array]:
        return [x.astype(gradient.dtype) for x in form.transpose(gradient, shapes, rois, rule)]

    maps = _run(transpose, gradient_form, gradient, rois)
    return dict(zip(levels, maps, strict=True)), None


_align.defvjp(_forward, _backward)
