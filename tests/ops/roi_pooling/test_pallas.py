"""The kernels for TPUs, interpreted on a CPU, against a loop over samples and the gather."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

from maskrcnn_jax.ops.roi_pooling import pallas
from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align
from tests.conftest import QUICK_COMPILE
from tests.ops.roi_pooling.test_align import expected, random_boxes, random_pyramid

jit = partial(jax.jit, compiler_options=QUICK_COMPILE)
CANVAS = jnp.array([128, 192])


def pool_and_pull_back(
    pyramid, boxes, upstream, canvas=CANVAS, sampling_ratio=2, aligned=False, form="pallas"
):
    rule = {"sampling_ratio": sampling_ratio, "aligned": aligned, "form": form}
    pool = partial(multilevel_roi_align, boxes=boxes, canvas=canvas, **rule)
    resolution = upstream.shape[1]
    pooled, pullback = jax.vjp(partial(pool, resolution=resolution), pyramid)
    return pooled, pullback(upstream.astype(pooled.dtype))[0]


@pytest.fixture
def interpret(monkeypatch):
    """Interprets kernels and checks that they stay within their memory, which begins as NaN.

    11 boxes are three groups, the last one of three boxes.
    """
    monkeypatch.setattr(pallas, "GROUP_SIZE", 4)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        yield


@pytest.mark.parametrize(
    "resolution, sampling_ratio, aligned, channels, num_boxes",
    [(2, 2, False, 3, 11), (9, 1, True, 130, 7)],
)
def test_equals_a_loop_over_samples(
    interpret, resolution, sampling_ratio, aligned, channels, num_boxes
):
    """Rows of bins in one register and in two; one block of channels and two."""
    pyramid = random_pyramid(0, channels=channels, levels=(2, 3))
    # The first box crosses the right edge: its samples there must not read fresh memory.
    boxes = [[[150, 30, 260, 90]], np.roll(random_boxes(0), 2, axis=0)]  # Special shapes first.
    boxes = np.concatenate(boxes).astype(np.float32)[:num_boxes]
    upstream = jax.random.normal(jax.random.key(0), (len(boxes), resolution, resolution, channels))
    settings = {"sampling_ratio": sampling_ratio, "aligned": aligned}
    arguments = pyramid, jnp.asarray(boxes), upstream
    pooled, gradient = jit(partial(pool_and_pull_back, **settings))(*arguments)
    # Coordinates reach 1e4 / 4 cells, where float32 resolves 2e-4 of a cell.
    np.testing.assert_allclose(
        pooled, expected(pyramid, boxes, resolution, sampling_ratio, aligned), atol=2e-3
    )
    gathered = jit(partial(pool_and_pull_back, **settings, form="gather"))(*arguments)
    for actual, level in [(pooled, gathered[0]), *((gradient[k], gathered[1][k]) for k in pyramid)]:
        np.testing.assert_allclose(actual, level, rtol=1e-5, atol=1e-5)


def test_images_mapped_over_devices(interpret):
    """Two images on each of two devices, in bfloat16, each with a canvas of its own."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    pyramids = [random_pyramid(seed, 64, 96, levels=(2, 3)) for seed in range(4)]
    pyramid = jax.tree.map(lambda *x: jnp.stack(x).astype(jnp.bfloat16), *pyramids)
    boxes = jnp.stack([jnp.asarray(random_boxes(seed, 64, 96)) for seed in range(4)])[:, 2:5]
    canvas = jnp.stack([jnp.array([64 - 4 * i, 96 - 8 * i]) for i in range(4)])
    upstream = jax.random.normal(jax.random.key(0), (4, 3, 2, 2, 3))

    def run(form):
        data = PartitionSpec("data")
        one = partial(pool_and_pull_back, form=form)
        mapped = jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=data, out_specs=data)
        return jit(mapped)(pyramid, boxes, upstream, canvas)

    # Both add float32 numbers in another order, then round to bfloat16.
    compare = partial(np.testing.assert_allclose, rtol=2**-7, atol=1e-6)
    to_float = partial(jax.tree.map, lambda x: np.asarray(x, np.float32))
    jax.tree.map(compare, to_float(run("pallas")), to_float(run("gather")))


def test_coordinates_that_are_not_finite_pool_zeros(interpret):
    meaningless = [[np.nan] * 4, [0, np.nan, 50, 50], [-np.inf, -np.inf, np.inf, np.inf]]
    pyramid = random_pyramid(0, levels=(2,))
    pooled, gradient = jit(pool_and_pull_back)(
        pyramid, jnp.asarray(meaningless), jnp.ones((3, 2, 2, 3))
    )
    assert not pooled.any() and not gradient[2].any()


@pytest.mark.parametrize(
    "change, has_kernel",
    [
        ({"dtype": jnp.bfloat16}, True),
        ({"resolution": 14, "height": 1344, "width": 800}, True),
        ({"num_boxes": 0}, False),
        ({"sampling_ratio": 0}, False),  # Adaptive.
        ({"sampling_ratio": 3, "resolution": 14}, False),  # 84 taps per axis.
        ({"height": 1344}, False),  # More cells than fit.
        ({"dtype": jnp.float16}, False),
    ],
)
def test_the_einsum_takes_what_does_not_fit(change, has_kernel):
    """At the size of real images; the kernels are lowered for a TPU, which needs none."""
    case = {"height": 800, "width": 1344, "dtype": jnp.float32, "num_boxes": 512}
    case |= {"resolution": 7, "sampling_ratio": 2} | change
    shapes = {k: (case["height"] >> k, case["width"] >> k, 256) for k in (2, 3, 4, 5)}
    pyramid = {k: jax.ShapeDtypeStruct(shape, case["dtype"]) for k, shape in shapes.items()}
    boxes = jax.ShapeDtypeStruct((case["num_boxes"], 4), jnp.float32)
    bins = case["num_boxes"], case["resolution"], case["resolution"], 256
    upstream = jax.ShapeDtypeStruct(bins, case["dtype"])
    function = jax.jit(partial(pool_and_pull_back, sampling_ratio=case["sampling_ratio"]))
    exported = jax.export.export(function, platforms=["tpu"])(pyramid, boxes, upstream)
    program = exported.mlir_module()
    assert program.count("tpu_custom_call") == (2 if has_kernel else 0)
    assert ("stablehlo.dot_general" in program) == (not has_kernel and case["num_boxes"] > 0)
