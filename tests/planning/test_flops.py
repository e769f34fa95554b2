"""Operation counts: single layers against loops, a toy network and R50-FPN by hand."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from maskrcnn_jax.config import Config
from maskrcnn_jax.planning import flops
from maskrcnn_jax.planning.flops import Flops

BUCKET = 800, 1344


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def count(layer, x, **params):
    """The operations of a layer ``layer(params, x)`` whose input needs a cotangent."""

    def loss(params, x):
        with jax.named_scope("layer"):
            params = params["layer"]
            return layer(params, x * params["scale"]).sum()

    params = {"layer": shapes(scale=(), **params)}
    return flops.count_loss(loss, params, jax.ShapeDtypeStruct(x, jnp.float32))["layer"]


def products_by_loops(outer, kernel, features, groups):
    """Counts by loops: every output cell has every tap, for 4 channels and a group's features."""
    found = 0
    for _ in itertools.product(*map(range, (*outer, *kernel))):
        for channel, feature in itertools.product(range(4), range(features)):
            found += channel // (4 // groups) == feature // (features // groups)
    return found


CONVOLUTIONS = {
    "3x3": dict(kernel=(3, 3), padding=(1, 1)),
    "strided": dict(kernel=(3, 3), padding=(1, 1), strides=(2, 2)),
    "patches": dict(kernel=(4, 2), strides=(4, 2)),
    "grouped": dict(kernel=(3, 3), padding=(1, 1), groups=2),
    "depthwise, strided": dict(kernel=(3, 1), padding=(1, 0), strides=(2, 1), groups=4),
    "wide": dict(kernel=(3, 3), padding=(2, 2), kernel_dilation=(2, 2)),
}


@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolutions(settings):
    kernel, groups = settings["kernel"], settings.get("groups", 1)
    strides, padding = settings.get("strides", (1, 1)), settings.get("padding", (0, 0))

    def layer(params, x):
        return jax.lax.conv_general_dilated(
            x,
            params["kernel"],
            strides,
            [(p, p) for p in padding],
            rhs_dilation=settings.get("kernel_dilation"),
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    counted = count(layer, (2, 8, 12, 4), kernel=(*kernel, 4 // groups, 8))
    outer = 2, 8 // strides[0], 12 // strides[1]
    forward = 2 * products_by_loops(outer, kernel, 8, groups)
    assert counted == (forward, 3 * forward)


def test_a_transposed_convolution_multiplies_no_zeros():
    def layer(params, x):
        return jax.lax.conv_transpose(x, params["kernel"], (2, 2), "SAME")

    counted = count(layer, (1, 5, 6, 3), kernel=(4, 4, 3, 7))
    forward = 2 * 5 * 6 * 4 * 4 * 3 * 7  # Every input cell has every tap.
    assert counted == (forward, 3 * forward)


def test_matrix_products():
    forward = 2 * sum(1 for _ in np.ndindex(2, 5, 7, 3))
    for subscripts, kernel in {"bnc,cf->bfn": (3, 7), "bnc,bcf->bnf": (2, 3, 7)}.items():

        def layer(params, x, subscripts=subscripts):
            return jnp.einsum(subscripts, x, params["kernel"])

        assert count(layer, (2, 5, 3), kernel=kernel) == (forward, 3 * forward)


DENSE = 2 * 4 * 6 * 6  # Operations of `dense`.


def dense(params, x):
    return jnp.tanh(x @ params["kernel"])


def count_dense(layer):
    return count(layer, (4, 6), kernel=(6, 6))


def with_custom_derivative(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    return wrapped


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, with_custom_derivative])
def test_calls_count_once(wrap):
    assert count_dense(lambda params, x: wrap(dense)(params, x)) == (DENSE, 3 * DENSE)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["kept", "recomputed"])
def test_loops_count_every_turn(wrap):
    def layer(params, x):
        return jax.lax.scan(lambda x, _: (wrap(dense)(params, x), None), x, length=4)[0]

    assert count_dense(layer) == (4 * DENSE, 4 * 3 * DENSE)


def test_a_loop_of_unknown_length_counts_once():
    def layer(params, x):
        def body(state):
            x, y = state
            return y, dense(params, x)  # Reaches the result in the next iteration.

        x, _ = jax.lax.while_loop(lambda state: state[0].sum() < 9, body, (x, x))
        return x

    def frozen(params, x):  # A while loop has no gradient.
        return dense(params, layer(*jax.lax.stop_gradient((params, x))))

    assert count_dense(frozen) == (2 * DENSE, 3 * DENSE)


def test_of_the_branches_of_a_condition_the_dearest_counts():
    def twice(params, x):
        return dense(params, dense(params, x))

    def layer(params, x):
        return jax.lax.cond(x.sum() > 0, twice, dense, params, x)

    assert count_dense(layer) == (2 * DENSE, 2 * 3 * DENSE)


def test_of_code_for_several_platforms_the_default_counts():
    def thrice(params, x):
        return dense(params, dense(params, dense(params, x)))

    def layer(params, x):
        def of_row(row):
            return jax.lax.platform_dependent(params, row.reshape(1, -1), cpu=thrice, default=dense)

        return jax.vmap(of_row)(x)

    assert count_dense(layer) == (DENSE, 3 * DENSE)


def test_of_a_sharded_program_the_share_of_one_device_counts():
    mesh = Mesh(np.array(jax.devices()[:2]), "data")

    def layer(params, x):
        specs = PartitionSpec(), PartitionSpec("data")
        share = jax.shard_map(dense, mesh=mesh, in_specs=specs, out_specs=specs[1])
        return share(params, x)

    assert count_dense(layer) == (DENSE / 2, 3 * DENSE / 2)


def test_dead_code_does_not_count():
    @jax.jit
    def both(params, x):
        return dense(params, x), x @ params["kernel"].T

    def layer(params, x):
        return both(params, x)[0]

    assert count_dense(layer) == (DENSE, 3 * DENSE)


def conditionally(function):
    return lambda a, b: jax.lax.cond(a.sum() > 0, function, function, a, b)


@pytest.mark.parametrize("call", [jax.jit, conditionally])
def test_products_that_dead_code_alone_reads_do_not_count(call):
    def layer(params, x):
        sines = call(lambda a, b: (jnp.sin(a), jnp.sin(b)))
        return sines(dense(params, x), x @ params["kernel"].T)[0]

    assert count_dense(layer) == (DENSE, 3 * DENSE)


@jax.custom_vjp
def product(x, kernel):
    return x @ kernel


def product_backward(residuals, gradient):
    x, kernel = residuals
    return gradient @ kernel.T, jax.vjp(lambda kernel: x @ kernel, kernel)[1](gradient)[0]


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), product_backward)


def test_gradients_that_nothing_reads_do_not_count():
    def constant(params, x):
        return product(jnp.ones((4, 6)), params["kernel"])

    # The backward rule has a forward pass, and always computes the cotangent of its input.
    assert count_dense(lambda params, x: product(x, params["kernel"])) == (DENSE, 3 * DENSE)
    assert count_dense(constant) == (DENSE, 2 * DENSE)


class Toy(nn.Module):
    """A frozen stem, a strided convolution and a head with two methods."""

    def setup(self):
        self.stem = nn.Conv(8, (3, 3), use_bias=False)
        self.backbone = nn.remat(nn.Conv)(16, (3, 3), 2)
        self.head = Head()

    def __call__(self, x):
        x = self.backbone(jax.lax.stop_gradient(self.stem(x)))
        pooled = jnp.einsum("nc,bhwc->bnhw", jnp.ones((9, 16)), x)  # Outside all modules.
        return self.head.score(x) + pooled.sum()


class Head(nn.Module):
    def setup(self):
        self.stem, self.output = nn.Dense(32), nn.Dense(1)  # Not the stem of the network.

    def score(self, x):
        return self.output(nn.relu(self.stem(x))).sum()


def test_a_toy_network_by_hand():
    image, model = jnp.zeros((1, 8, 12, 3)), Toy()
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    counted = flops.count_loss(lambda params, x: model.apply({"params": params}, x), params, image)
    stem, backbone, head = 2 * 96 * 9 * 3 * 8, 2 * 24 * 9 * 8 * 16, 2 * 24 * (16 * 32 + 32)
    assert counted == {
        "stem": (stem, stem),
        "backbone": (backbone, 2 * backbone),  # The frozen stem needs no cotangent.
        "head": (head, 3 * head),
    }


@pytest.fixture(scope="module")
def r50():
    with nn.override_named_call(False):  # A user may have set this in Flax.
        return flops.count(Config().model, BUCKET)


def cells(*levels):
    return sum(-(-BUCKET[0] // 2**level) * -(-BUCKET[1] // 2**level) for level in levels)


def test_the_backbone_of_r50(r50):
    # torchvision publishes 4.09 * 10^9 products on 224x224 pixels, with the classifier.
    products = (4.09e9 - 2048 * 1000) * (BUCKET[0] * BUCKET[1]) / 224**2
    assert r50["backbone"].forward == pytest.approx(2 * products, rel=0.002)
    stem = cells(1) * 7 * 7 * 3 * 64
    blocks = 64 * 64 + 2 * 256 * 64 + 3 * (9 * 64 * 64 + 64 * 256)
    c2 = cells(2) * (blocks + 64 * 256)  # Includes the convolution of the first shortcut.
    # The stem and C2 are frozen, so two convolutions after them need no cotangent of their input.
    first = cells(2) * 256 * 128 + cells(3) * 256 * 512
    without_gradient = 2 * (2 * (stem + c2) + first)
    assert r50["backbone"].training == 3 * r50["backbone"].forward - without_gradient


def test_the_pyramid_of_r50(r50):
    lateral = [2 * cells(level) * 256 * 2**level * 64 for level in range(2, 6)]
    forward = sum(lateral) + 2 * cells(2, 3, 4, 5) * 9 * 256 * 256
    assert r50["fpn"] == (forward, 3 * forward - lateral[0])  # C2 is frozen.


def test_the_heads_of_r50(r50):
    rpn = 2 * cells(2, 3, 4, 5, 6) * (9 * 256 * 256 + 256 * 3 + 256 * 12)
    assert r50["rpn"] == (rpn, 3 * rpn)
    box_head = 2 * 512 * (49 * 256 * 1024 + 1024 * 1024 + 1024 * 81 * 5)
    assert r50["box_head"] == (box_head, 3 * box_head)
    layers = 2 * 128 * (196 * 4 * 9 * 256 * 256 + 784 * 256 * 256 + 784 * 256)
    # Kernel and bias for the class of each RoI; the selection of classes has no gradient.
    selection = 2 * 128 * 81 * (256 + 1)
    # It cuts its targets of 28x28 out of masks of 112x112, without a gradient.
    targets = 2 * 128 * (28 * 112 * 112 + 28 * 28 * 112)
    assert r50["mask_head"] == (
        layers + selection + targets,
        3 * layers + 2 * selection + targets,
    )


def test_the_whole_of_r50(r50, monkeypatch):
    monkeypatch.setattr(flops, "count", lambda config, bucket: r50)
    assert flops.total(Config().model, BUCKET) == Flops(
        sum(part.forward for part in r50.values()), sum(part.training for part in r50.values())
    )
    assert flops.total(Config().model, BUCKET).training == pytest.approx(1.5635e12, rel=1e-4)
