"""Features of each RoI of one image, pooled from the pyramid level that fits its size."""

from jaxtyping import Array, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import RoIConfig
from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align
from maskrcnn_jax.ops.roi_pooling.maxima import multilevel_roi_pool
from maskrcnn_jax.structures import ImagePyramid


def pool_rois(
    pyramid: ImagePyramid,
    boxes: Float[Array, "r 4"],
    canvas: Int[Array, "2"],
    *,
    resolution: int,
    config: RoIConfig,
    run: Execution,
) -> Float[Array, "r s s c"]:
    """RoIAlign (section 3 of Mask R-CNN), or RoIPool (section 2.1 of Fast R-CNN).

    Args:
        pyramid: Feature maps of one image, without the coarsest level, which only has anchors.
        boxes: The RoIs, in pixels of the padded image.
        canvas: Height and width of the padded image, in pixels.
        resolution: Bins per axis.
        config: Chooses the operation and its rule.
        run: Chooses the form of RoIAlign.

    Raises:
        ValueError: The config asks for RoIPool, but several devices share the rows of an image.
    """
    if config.pooling == "align":
        return multilevel_roi_align(
            pyramid,
            boxes,
            canvas,
            resolution=resolution,
            sampling_ratio=config.sampling_ratio,
            aligned=config.aligned,
            level_rule=config.level_rule,
            form=run.align_form,
            gradient_form=run.align_gradient,
        )
    if run.row_shards > 1:
        raise ValueError(
            'roi.pooling="pool" needs all rows of an image on each device: set execution.space=1'
        )
    return multilevel_roi_pool(
        pyramid, boxes, canvas, resolution=resolution, level_rule=config.level_rule
    )
