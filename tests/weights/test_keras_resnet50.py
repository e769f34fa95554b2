"""Keras' ResNet-50 as a backbone: layout, channel order, folded biases, and real photographs as the judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.weights import keras_resnet50


def layer(rng, name, shape):
    vectors = {kind: rng.normal(size=shape[0]).astype(np.float32) for kind in ("gamma", "beta", "mean", "var")}
    arrays = {f"{name}_conv/kernel_OIHW": rng.normal(size=shape).astype(np.float32)}
    arrays[f"{name}_conv/bias"] = rng.normal(size=shape[0]).astype(np.float32)
    return arrays | {f"{name}_bn/{kind}": vector for kind, vector in vectors.items()}


def test_stem_is_turned_to_rgb_and_its_bias_folded_into_the_mean():
    keras = layer(np.random.default_rng(0), "conv1", (64, 3, 7, 7))
    ours = keras_resnet50.convert(keras)
    kernel = keras["conv1_conv/kernel_OIHW"]
    np.testing.assert_array_equal(ours["params/backbone/conv1/kernel"][2, 5, 0, 9], kernel[9, 2, 2, 5])
    np.testing.assert_allclose(ours["constants/backbone/bn1/mean"], keras["conv1_bn/mean"] - keras["conv1_conv/bias"])
    np.testing.assert_array_equal(ours["constants/backbone/bn1/scale"], keras["conv1_bn/gamma"])


def test_an_incomplete_stage_is_left_to_chance_with_small_branches():
    rng = np.random.default_rng(0)
    keras = layer(rng, "conv1", (64, 3, 7, 7)) | layer(rng, "conv2_block1_1", (64, 64, 1, 1))
    ours = keras_resnet50.convert(keras)
    assert not any(name.startswith("params/backbone/layer") for name in ours)
    np.testing.assert_allclose(ours["constants/backbone/layer4_2/bn3/scale"], np.full(2048, 0.2))


def test_a_file_without_the_stem_is_refused():
    with pytest.raises(ValueError, match="params/backbone/conv1/kernel"):
        keras_resnet50.convert({"something": np.zeros(3)})


@pytest.mark.slow
def test_activations_on_photographs_have_the_stored_statistics(shared):
    """Only with the right stride, padding, channel order and norm do photographs look as they did in training."""
    from maskrcnn_jax import images
    from maskrcnn_jax.modules.resnet import ResNet
    from maskrcnn_jax.weights import files

    keras = files.read(shared / "data/weights/resnet50_imagenet_stem_to_c4.npz").arrays
    flat = keras_resnet50.convert(keras)
    photographs = [images.read_image(path) for path in sorted((shared / "data/coco_subset/val").glob("*.jpg"))[:6]]
    batch = np.stack([images.resize_uint8(photograph, (224, 224)) for photograph in photographs]).astype(np.float32)
    x = jnp.asarray(batch - np.array([123.68, 116.779, 103.939], np.float32).reshape(1, 1, 1, 3))
    model = ResNet(50, 64, "frozen_batch", 1.001e-5, True, 0, "float32")
    extent = jnp.full((len(x), 2), 224)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, extent)

    def fill(path, leaf):
        name = "/".join(key.key for key in path).replace("/", "/backbone/", 1)
        default = np.ones if path[-1].key in ("scale", "var") else np.zeros
        return jnp.asarray(flat.get(name, default(leaf.shape, np.float32)))

    variables = jax.tree_util.tree_map_with_path(fill, variables)
    _, state = model.apply(variables, x, extent, capture_intermediates=True, mutable=["intermediates"])
    correlations = []
    for name in ("layer1_0", "layer2_1", "layer3_2", "layer3_5"):
        before = np.asarray(state["intermediates"][name]["conv2"]["__call__"][0])
        stored = np.asarray(flat[f"constants/backbone/{name}/bn2/mean"])
        correlations.append(np.corrcoef(before.mean((0, 1, 2)), stored)[0, 1])
    assert np.median(correlations) > 0.9, correlations
