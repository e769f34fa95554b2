"""The ResNet-50 of Keras as a backbone: layout, channel order, folded biases, photographs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from maskrcnn_jax import images, resizing
from maskrcnn_jax.model_config import ResNetConfig
from maskrcnn_jax.modules import layers
from maskrcnn_jax.modules.resnet import ResNet
from maskrcnn_jax.weights import files, keras_resnet50


def layer(rng, name, shape):
    vectors = {
        kind: rng.normal(size=shape[0]).astype(np.float32)
        for kind in ("gamma", "beta", "mean", "var")
    }
    arrays = {f"{name}_conv/kernel_OIHW": rng.normal(size=shape).astype(np.float32)}
    arrays[f"{name}_conv/bias"] = rng.normal(size=shape[0]).astype(np.float32)
    return arrays | {f"{name}_bn/{kind}": vector for kind, vector in vectors.items()}


def test_stem_is_turned_to_rgb_and_its_bias_folded_into_the_mean():
    keras = layer(np.random.default_rng(0), "conv1", (64, 3, 7, 7))
    ours = keras_resnet50.convert(keras)
    kernel = keras["conv1_conv/kernel_OIHW"]
    np.testing.assert_array_equal(
        ours["params/backbone/conv1/kernel"][2, 5, 0, 9], kernel[9, 2, 2, 5]
    )
    np.testing.assert_allclose(
        ours["constants/backbone/bn1/mean"], keras["conv1_bn/mean"] - keras["conv1_conv/bias"]
    )
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


SIDE = 224  # Side of the square photographs, in pixels.


class Photographs(NamedTuple):
    """Photographs of the COCO subset, normalised for the weights, and the weights."""

    batch: np.ndarray
    weights: dict[str, np.ndarray]
    norms: list[str]  # Paths of the norms of the complete stages.


@pytest.fixture(scope="module")
def photographs(shared):
    keras = files.read(shared / "data/weights/resnet50_imagenet_stem_to_c4.npz").arrays
    weights = keras_resnet50.convert(keras)
    paths = sorted((shared / "data/coco_subset/val").glob("*.jpg"))[:12]
    batch = np.stack(
        [resizing.resize_rounded(images.read_image(path), (SIDE, SIDE)) for path in paths]
    )
    names = (name.removeprefix("constants/backbone/") for name in weights if name.endswith("/mean"))
    norms = [name.removesuffix("/mean") for name in names]
    assert len(norms) == 43
    return Photographs(batch - np.array([123.68, 116.779, 103.939], np.float32), weights, norms)


def correlations(photographs, *, batch=None, weights=None, stride_in_1x1=True):
    """Correlates the statistics of each norm's inputs with its stored statistics, over channels.

    Returns an array [norms, 2]: the correlations of means and of the logarithms of variances.
    """
    batch = photographs.batch if batch is None else batch
    weights = photographs.weights if weights is None else weights
    model = ResNet(ResNetConfig(norm_eps=1.001e-5, stride_in_1x1=stride_in_1x1, frozen_stages=0))
    extent = jnp.full((len(batch), 2), SIDE)

    def fill(path, leaf):
        name = "/".join(key.key for key in path).replace("/", "/backbone/", 1)
        return weights.get(name, np.ones(leaf.shape, np.float32))

    variables = jax.eval_shape(model.init, jax.random.key(0), batch, extent)
    variables = jax.tree_util.tree_map_with_path(fill, variables)

    @jax.jit
    def moments(variables, batch):
        _, state = model.apply(
            variables,
            batch,
            extent,
            capture_intermediates=lambda module, _: isinstance(module, layers.Conv),
        )
        return jax.tree.map(lambda x: (x.mean((0, 1, 2)), x.var((0, 1, 2))), state["intermediates"])

    def correlate(a, b):
        return np.corrcoef(a, b)[0, 1]

    found = traverse_util.flatten_dict(jax.device_get(moments(variables, batch)), sep="/")
    rows = []
    for norm in photographs.norms:
        mean, variance = found[f"{norm.replace('bn', 'conv')}/__call__"][0]
        stored_mean = photographs.weights[f"constants/backbone/{norm}/mean"]
        stored_variance = photographs.weights[f"constants/backbone/{norm}/var"]
        log_variances = np.log(variance + 1e-9), np.log(stored_variance + 1e-9)
        rows.append((correlate(mean, stored_mean), correlate(*log_variances)))
    return np.array(rows)


def edges_repeated(x, kernel, stride, **settings):
    """Convolves with edge padding instead of zero padding."""
    padding = kernel.shape[0] // 2
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="edge")
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=numbers
    )


@pytest.mark.slow
def test_photographs_have_the_statistics_the_norms_remember_only_if_all_is_right(
    photographs, monkeypatch
):
    """A wrong stride, padding, channel order or norm changes the statistics of the layers' inputs.

    Correlations of means do not suffice: their median stays 0.98 for all errors but that of norms.
    """
    right = correlations(photographs)
    assert are_remembered(right)
    without_shift = {
        name: 0 * x if name.endswith("/bias") else x for name, x in photographs.weights.items()
    }
    swapped = {
        "stride": correlations(photographs, stride_in_1x1=False),
        "channel order": correlations(photographs, batch=photographs.batch[..., ::-1]),
        "norm": correlations(photographs, weights=without_shift),
    }
    monkeypatch.setattr(layers, "conv", edges_repeated)
    swapped["padding"] = correlations(photographs)
    for name, wrong in swapped.items():
        share = (wrong[:, 1] < right[:, 1]).mean()
        medians = np.median(wrong, axis=0)
        print(f"{name}: medians {medians}, variances correlate less in {share:.2f} of the layers")
        assert not are_remembered(wrong), name
        assert share > 0.65, name


def are_remembered(found):
    """Compares the medians over the layers with bounds.

    The correct medians are 0.983 for means and 0.976 for variances; each error reduces one of them
    to at most 0.962.
    """
    return np.median(found[:, 0]) > 0.975 and np.median(found[:, 1]) > 0.97
