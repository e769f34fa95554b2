"""Converts the ImageNet ResNet-50 of Keras to a backbone file for ``config.backbone_weights``.

    python -m maskrcnn_jax.weights.keras_resnet50 resnet50_imagenet_stem_to_c4.npz \\
        resnet50_keras.npz

The input is a NumPy archive of the layers of ``keras.applications.ResNet50`` (the weights of He et
al., converted from Caffe). The arrays are called ``LAYER/NAME`` with the names ``kernel_OIHW``,
``bias``, ``gamma``, ``beta``, ``mean`` and ``var``. A stage that the archive does not hold
completely is initialised at random, with a small scale of its residual branches.

The weights need ``stride_in_1x1``, ``norm_eps = 1.001e-5``,
``image_mean = (123.68, 116.779, 103.939) / 255`` and ``image_std = (1 / 255,) * 3``.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from maskrcnn_jax.weights import files

NUM_BLOCKS = (3, 4, 6, 3)
UNTRAINED_BRANCH_SCALE = 0.2  # Frozen norms cannot learn to scale a random residual branch down.


def convert(keras: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames and transposes the arrays of the complete stages.

    Args:
        keras: The arrays of the archive by name; see the module.

    Returns:
        float32 arrays by the paths of our variables.

    Raises:
        ValueError: The stem is incomplete; the message lists the missing arrays.
    """
    stem = list(_convert_layer(keras, "conv1", "conv1", "bn1"))
    missing = [name for name, array in stem if array is None]
    if missing:
        raise ValueError(f"not a ResNet-50 of Keras: {', '.join(missing)} missing")
    ours = dict(stem)
    kernel = ours["params/backbone/conv1/kernel"]
    ours["params/backbone/conv1/kernel"] = kernel[:, :, ::-1]  # BGR to RGB.
    for stage, num_blocks in enumerate(NUM_BLOCKS, start=1):
        arrays = dict(_convert_stage(keras, stage, num_blocks))
        if all(array is not None for array in arrays.values()):
            ours |= arrays
        else:
            scale = np.full(256 * 2 ** (stage - 1), UNTRAINED_BRANCH_SCALE, np.float32)
            for i in range(num_blocks):
                ours[f"constants/backbone/layer{stage}_{i}/bn3/scale"] = scale
    return ours


def _convert_stage(
    keras: dict[str, np.ndarray], stage: int, num_blocks: int
) -> Iterator[tuple[str, np.ndarray | None]]:
    for i in range(num_blocks):
        theirs, ours = f"conv{stage + 1}_block{i + 1}", f"layer{stage}_{i}"
        for j in (1, 2, 3):
            yield from _convert_layer(keras, f"{theirs}_{j}", f"{ours}/conv{j}", f"{ours}/bn{j}")
        if i == 0:
            names = f"{ours}/downsample_conv", f"{ours}/downsample_bn"
            yield from _convert_layer(keras, f"{theirs}_0", *names)


def _convert_layer(
    keras: dict[str, np.ndarray], layer: str, conv: str, norm: str
) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yields the arrays of a convolution and its norm by our names; None for missing arrays."""
    kernel = keras.get(f"{layer}_conv/kernel_OIHW")
    yield f"params/backbone/{conv}/kernel", None if kernel is None else kernel.transpose(2, 3, 1, 0)
    for ours, theirs in (("scale", "gamma"), ("bias", "beta"), ("mean", "mean"), ("var", "var")):
        array = keras.get(f"{layer}_bn/{theirs}")
        # Our convolutions have no bias: fold it into the mean, which the norm subtracts.
        if ours == "mean" and array is not None:
            array = array - keras.get(f"{layer}_conv/bias", np.zeros_like(array))
        yield f"constants/backbone/{norm}/{ours}", array


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("keras", help="archive of Keras' weights")
    parser.add_argument("output", help="backbone file to write (.npz)")
    arguments = parser.parse_args()
    files.write(arguments.output, convert(files.read(arguments.keras).arrays))
