"""The first convolution of weights of three channels, for images with another number of them."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights.layout import Entry

PATH = ("params", "backbone", "conv1", "kernel")
PATHS = (PATH, *(("params", "backbone", x, "kernel") for x in ("patch_embed", "stem_conv")))
_TYPICAL_STD = 0.226  # Mean of the standard deviations of ImageNet's channels, white as 1.


def mixture(num_channels: int) -> Float[np.ndarray, "n 3"]:
    """The shares of the filters of red, green and blue in the filter of each new channel.

    The filter of a single channel is their sum, so a grey image gives what it gave as RGB with
    three equal channels. Otherwise channel ``i`` gets filter ``i % 3`` times ``3 / n``, which keeps
    the scale of the output. This is the rule of timm's ``adapt_input_conv``.
    """
    if num_channels == 1:
        return np.ones((1, 3))
    return np.eye(3)[np.arange(num_channels) % 3] * 3 / num_channels


def adapt(
    arrays: dict[str, np.ndarray],
    table: Iterable[Entry],
    config: ModelConfig,
    trained_std: Sequence[float],
) -> tuple[str, ...]:
    """Replaces the filters of three channels by those of the channels of a model; see `mixture`.

    Filters that learned from pixels of 0 to 255 are scaled to channels of standard deviation 1,
    unless the model has their ``image_std``.

    Args:
        arrays: The arrays of a file, in the order RGB. The kernel is replaced, unless it has
            another number of channels than three or already fits.
        table: The names and the axes of the arrays.
        config: The model.
        trained_std: ``image_std`` that the filters learned with.

    Returns:
        Lines for the report; none if nothing was replaced.
    """
    count = len(config.image_mean)
    entry = next(each for each in table if each.path in PATHS)
    axis, kernel = entry.axes[2], arrays.get(entry.name)
    if count == 3 or kernel is None or kernel.ndim != 4 or kernel.shape[axis] != 3:
        return ()
    scale, why = _scale(config, trained_std)
    mixed = np.tensordot(mixture(count) * scale, kernel, (1, axis))
    arrays[entry.name] = np.moveaxis(mixed, 0, axis).astype(np.float32)
    rule = "are added up for the 1 channel"
    if count > 1:
        rule = f"serve the {count} channels in turn, times 3/{count}"
    lines = [f"{entry.path[2]}: its filters of red, green and blue {rule}{why}"]
    if config.backbone.frozen_stages:
        lines.append(
            f"{entry.path[2]} does not train, since model.backbone.frozen_stages is "
            f"{config.backbone.frozen_stages}: with 0 it learns from the new channels"
        )
    return tuple(lines)


def _scale(config: ModelConfig, trained_std: Sequence[float]) -> tuple[float, str]:
    """The factor of the filters, and the end of the line that tells it."""
    is_raw = np.allclose(trained_std, presets.CAFFE_STD[0], rtol=0.01)
    if not is_raw or set(config.image_std) <= set(trained_std):
        return 1.0, ""
    scale = _TYPICAL_STD / float(np.mean(trained_std))
    return scale, f", and times {scale:.3g}, since they learned from pixels of 0 to 255"
