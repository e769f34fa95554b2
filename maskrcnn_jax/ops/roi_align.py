"""RoIAlign over a feature pyramid, by the exact rule of torchvision's and Detectron2's C++ kernels.

Each RoI is cut into ``resolution x resolution`` bins, and a bin is the mean of ``sampling_ratio x sampling_ratio``
bilinear samples. So pooling is a linear map of the features, whose coefficients come from the boxes alone. It is
computed in one of two forms, with the same result: `roi_align_gather` reads the cells it needs, `roi_align_einsum`
multiplies matrices.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jaxlib
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops import roi_align_einsum, roi_align_gather
from maskrcnn_jax.ops.roi_taps import RoIs, Rule, place

Pyramid = dict[int, Float[Array, "_h _w c"]]
FORMS = {"gather": roi_align_gather, "einsum": roi_align_einsum}

# These versions add on NVIDIA's GPUs by comparing and swapping in a loop, at times a thousand times as slow as the
# versions before and after: https://github.com/jax-ml/jax/issues/38806.
SLOW_ATOMICS = jaxlib.__version__ in ("0.10.2", "0.11.0")


def multilevel_roi_align(
    pyramid: Pyramid,
    boxes: Float[Array, "r 4"],
    canvas: Int[Array, "2"],
    *,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
    form: str = "auto",
    deterministic: bool = False,
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
        form: "gather", "einsum", or "auto" for what suits the device that the program is compiled for: gathers on CPUs
            and GPUs, einsums on TPUs. See `_forms`.
        deterministic: The same bits in every run, on a GPU too: there the gradient of a gather is added up by atomic
            operations, in any order, so einsums take its place.

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
        pyramid,
        place(boxes, canvas, tuple(sorted(pyramid))),
        Rule(resolution, sampling_ratio, aligned),
        form,
        deterministic,
    )


def _forms(form: str, *, backward: bool, deterministic: bool) -> dict[str, ModuleType]:
    """The form for each platform that has one of its own, and for all others by the name "default"."""
    forms = {"tpu": "einsum", "default": "gather"} if form == "auto" else {"default": form}
    if backward and forms["default"] == "gather":
        if deterministic:
            forms |= {"cuda": "einsum", "rocm": "einsum"}
        elif form == "auto" and SLOW_ATOMICS:
            forms |= {"cuda": "einsum"}
    return {platform: FORMS[name] for platform, name in forms.items()}


def _run(function: Callable[..., Any], forms: dict[str, ModuleType], *arguments: Any) -> Any:
    """Calls the function with the form for the platform that the program is compiled for."""
    if len(forms) == 1:
        return function(forms["default"], *arguments)
    branches = {platform: partial(function, form) for platform, form in forms.items()}
    return jax.lax.platform_dependent(*arguments, **branches)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _align(pyramid: Pyramid, rois: RoIs, rule: Rule, form: str, deterministic: bool) -> Float[Array, "r p p c"]:
    maps = [pyramid[level] for level in sorted(pyramid)]

    def pool(form: ModuleType, maps: list[Array], rois: RoIs) -> Array:
        return form.pool(maps, rois, rule).astype(maps[0].dtype)

    return _run(pool, _forms(form, backward=False, deterministic=deterministic), maps, rois)


def _forward(pyramid, rois, rule, form, deterministic):
    shapes = jax.tree.map(lambda x: x[:, :, :0], pyramid)  # The pyramid itself would be kept in memory.
    return _align(pyramid, rois, rule, form, deterministic), (shapes, rois)


def _backward(rule, form, deterministic, residuals, gradient):
    pyramid, rois = residuals
    levels = sorted(pyramid)
    shapes = [(*pyramid[level].shape[:2], gradient.shape[-1]) for level in levels]

    def transpose(form: ModuleType, gradient: Array, rois: RoIs) -> list[Array]:
        return [x.astype(gradient.dtype) for x in form.transpose(gradient, shapes, rois, rule)]

    maps = _run(transpose, _forms(form, backward=True, deterministic=deterministic), gradient, rois)
    return dict(zip(levels, maps, strict=True)), None


_align.defvjp(_forward, _backward)
