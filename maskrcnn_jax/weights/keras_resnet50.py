"""Turns Keras' ImageNet ResNet-50 into a backbone file for ``config.model.backbone_weights``.

    python -m maskrcnn_jax.weights.keras_resnet50 resnet50_imagenet_stem_to_c4.npz resnet50_keras.npz

The input is a NumPy archive of the layers of ``keras.applications.ResNet50`` (the weights of He et al., converted from
Caffe), one array per ``LAYER/NAME``: ``kernel_OIHW``, ``bias``, ``gamma``, ``beta``, ``mean``, ``var``. Stages it does
not hold completely are left to random initialisation, with residual branches that start small.

These weights expect ``stride_in_1x1``, ``norm_eps = 1.001e-5``, ``image_mean = (123.68, 116.779, 103.939) / 255`` and
``image_std = (1 / 255,) * 3``.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from maskrcnn_jax.weights import files

NUM_BLOCKS = (3, 4, 6, 3)
UNTRAINED_BRANCH_SCALE = 0.2  # Frozen norms cannot learn to damp a random residual branch.


def convert(keras: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames and rearranges the stages that are complete; see the module for both layouts.

    Raises:
        ValueError: Not even the stem is complete; the message lists what is missing of it.
    """
    stem = list(_convert_layer(keras, "conv1", "conv1", "bn1"))
    missing = [name for name, array in stem if array is None]
    if missing:
        raise ValueError(f"not a ResNet-50 of Keras: {', '.join(missing)} missing")
    ours = dict(stem)
    ours["params/backbone/conv1/kernel"] = ours["params/backbone/conv1/kernel"][:, :, ::-1]  # BGR to RGB.
    for stage, num_blocks in enumerate(NUM_BLOCKS, start=1):
        arrays = dict(_convert_stage(keras, stage, num_blocks))
        if all(array is not None for array in arrays.values()):
            ours |= arrays
        else:
            scale = np.full(256 * 2 ** (stage - 1), UNTRAINED_BRANCH_SCALE, np.float32)
            ours |= {f"constants/backbone/layer{stage}_{i}/bn3/scale": scale for i in range(num_blocks)}
    return ours


def _convert_stage(
    keras: dict[str, np.ndarray], stage: int, num_blocks: int
) -> Iterator[tuple[str, np.ndarray | None]]:
    for i in range(num_blocks):
        block = f"layer{stage}_{i}"
        for j in (1, 2, 3):
            yield from _convert_layer(keras, f"conv{stage + 1}_block{i + 1}_{j}", f"{block}/conv{j}", f"{block}/bn{j}")
        if i == 0:
            yield from _convert_layer(
                keras, f"conv{stage + 1}_block1_0", f"{block}/downsample_conv", f"{block}/downsample_bn"
            )


def _convert_layer(
    keras: dict[str, np.ndarray], layer: str, conv: str, norm: str
) -> Iterator[tuple[str, np.ndarray | None]]:
    """A convolution and its norm under our names, None for what is missing."""
    kernel = keras.get(f"{layer}_conv/kernel_OIHW")
    yield f"params/backbone/{conv}/kernel", None if kernel is None else kernel.transpose(2, 3, 1, 0)
    for ours, theirs in (("scale", "gamma"), ("bias", "beta"), ("mean", "mean"), ("var", "var")):
        array = keras.get(f"{layer}_bn/{theirs}")
        if ours == "mean" and array is not None:  # Our convolutions have no bias: the norm subtracts it again.
            array = array - keras.get(f"{layer}_conv/bias", np.zeros_like(array))
        yield f"constants/backbone/{norm}/{ours}", array


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("keras", help="archive of Keras' weights")
    parser.add_argument("output", help="backbone file to write (.npz)")
    arguments = parser.parse_args()
    files.write(arguments.output, convert(files.read(arguments.keras).arrays))
