"""RoIAlign against published values and a loop over samples, under every transformation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align
from maskrcnn_jax.ops.roi_pooling.placement import assign_levels
from tests import oracles
from tests.conftest import QUICK_COMPILE

LEVELS = (2, 3, 4, 5)


jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


def align(
    pyramid,
    boxes,
    canvas,
    resolution=2,
    sampling_ratio=2,
    aligned=False,
    form="gather",
    gradient_form=None,
):
    rule = {"resolution": resolution, "sampling_ratio": sampling_ratio, "aligned": aligned}
    forms = {"form": form, "gradient_form": gradient_form}
    return multilevel_roi_align(pyramid, boxes, canvas, **rule, **forms)


pool = jit(align, static_argnames=("resolution", "sampling_ratio", "aligned", "form"))


@partial(jit, static_argnames=("sampling_ratio", "aligned", "form"))
def pull_back(
    pyramid,
    boxes,
    canvas,
    upstream,
    sampling_ratio=2,
    aligned=False,
    form="gather",
    gradient_form=None,
):
    def pool_one(pyramid):
        return align(pyramid, boxes, canvas, 2, sampling_ratio, aligned, form, gradient_form)

    _, pullback = jax.vjp(pool_one, pyramid)
    return pullback(upstream)[0]


both_forms = pytest.mark.parametrize("form", ["gather", "einsum"])


def random_pyramid(seed, height=128, width=192, channels=3, levels=LEVELS):
    rng = np.random.default_rng(seed)
    shapes = {level: (-(-height // 2**level), -(-width // 2**level), channels) for level in levels}
    return {
        level: jnp.asarray(rng.normal(size=shape), jnp.float32) for level, shape in shapes.items()
    }


def random_boxes(seed, height=128, width=192):
    """Boxes inside, across and outside the image: thin, without area, inside out, very large."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-0.3, 1.3, (24, 2)) * [width, height]
    sizes = np.exp(rng.uniform(np.log(0.5), np.log(4 * width), (24, 2)))
    sizes[0], sizes[1, 0], sizes[2, 1], sizes[3:6] = 0, 0, 1e-3, [[1e4], [500], [130]]
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    inside_out = boxes[6:8, [2, 1, 0, 3]]
    return np.concatenate([boxes, inside_out]).astype(np.float32)


def expected(pyramid, boxes, resolution, sampling_ratio, aligned):
    levels = np.asarray(assign_levels(jnp.asarray(boxes), tuple(pyramid)))
    pooled = [
        oracles.roi_align(
            pyramid[level], box[None], 0.5**level, resolution, sampling_ratio, aligned
        )[0]
        for box, level in zip(boxes, levels.tolist(), strict=True)
    ]
    return np.stack(pooled)


@pytest.mark.parametrize(
    "box, aligned, pooled",
    [
        ([4, 4, 20, 20], False, [22, 24, 42, 44]),
        ([4, 4, 20, 20], True, [16.5, 18.5, 36.5, 38.5]),
        ([0, 0, 8, 8], False, [5.5, 6.5, 15.5, 16.5]),
        ([0, 0, 8, 8], True, [1.375, 2.25, 10.125, 11.0]),
        ([24, 24, 32, 32], False, [71.5, 72, 76.5, 77]),
        ([10, 12, 10.5, 12.5], False, [35.25, 35.75, 40.25, 40.75]),  # Made one cell wide and high.
        ([30, 30, 32, 32], False, [77, 0, 0, 0]),  # Three bins lie beyond the map.
        ([-8, -8, 4, 4], False, [0, 0.15625, 1.5625, 3.4375]),
    ],
)
@both_forms
def test_values_of_the_reference_kernel(box, aligned, pooled, form):
    # On the map 10 y + x, bilinear interpolation gives back the coordinates of the samples.
    features = 10.0 * jnp.arange(8.0).reshape(8, 1, 1) + jnp.arange(8.0).reshape(1, 8, 1)
    actual = pool(
        {2: features},
        jnp.array([box], jnp.float32),
        jnp.array([32, 32]),
        aligned=aligned,
        form=form,
    )
    np.testing.assert_allclose(actual.ravel(), pooled, rtol=1e-6)


@pytest.mark.parametrize(
    "box, aligned, pooled",
    [
        ([0, 0, 8, 8], True, [0, 1, 10, 11]),  # One sample in each bin of one cell.
        ([4, 4, 20, 20], False, [22, 24, 42, 44]),
        ([30, 30, 32, 32], False, [77, 0, 0, 0]),
        ([4, 4, 20, 4], True, [0, 0, 0, 0]),  # No samples where there is no height ...
        ([20, 20, 4, 4], True, [0, 0, 0, 0]),  # ... or less than none.
        # A row of 20 cells: 8 of the 10 samples of the first bin are on the map, at 0.5 to 6.5 and,
        # clipped, 7.
        ([0, 0, 80, 0.5], False, [0.8 * 2.5 + 3.15, 0, 0.8 * 7.5 + 3.15, 0]),
    ],
)
@both_forms
def test_adaptive_values_of_the_reference_kernel(box, aligned, pooled, form):
    features = 10.0 * jnp.arange(8.0).reshape(8, 1, 1) + jnp.arange(8.0).reshape(1, 8, 1)
    boxes, canvas = jnp.array([box], jnp.float32), jnp.array([32, 32])
    actual = pool({2: features}, boxes, canvas, sampling_ratio=0, aligned=aligned, form=form)
    np.testing.assert_allclose(actual.ravel(), pooled, rtol=1e-6)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio, num_seeds", [(0, 4), (1, 20), (2, 20), (3, 20)])
def test_equals_a_loop_over_samples(sampling_ratio, num_seeds, aligned):
    for seed in range(num_seeds):
        pyramid, boxes = random_pyramid(seed), random_boxes(seed)
        gathered, multiplied = (
            pool(
                pyramid, jnp.asarray(boxes), jnp.array([128, 192]), 2, sampling_ratio, aligned, form
            )
            for form in ("gather", "einsum")
        )
        # Coordinates reach 1e4 / 4 cells, where float32 resolves 2e-4 of a cell.
        np.testing.assert_allclose(
            gathered, expected(pyramid, boxes, 2, sampling_ratio, aligned), atol=2e-3
        )
        np.testing.assert_allclose(multiplied, gathered, atol=5e-6)


@both_forms
def test_bins_of_whole_cells_have_no_sample_too_many(form):
    """Bins of 0 to 48 cells.

    If XLA multiplied by the inverse of 7, some lengths would be an ulp above whole cells.
    """
    rng = np.random.default_rng(0)
    features = rng.normal(size=(344, 8, 2)).astype(np.float32)
    lengths = 28.0 * np.arange(49)
    boxes = np.stack([0 * lengths, 0 * lengths, 0 * lengths + 8, lengths], axis=1).astype(
        np.float32
    )
    pooled = pool(
        {2: jnp.asarray(features)}, jnp.asarray(boxes), jnp.array([1376, 32]), 7, 0, form=form
    )
    np.testing.assert_allclose(
        pooled, oracles.roi_align(features, boxes, 0.25, 7, 0, False), atol=1e-5
    )


@both_forms
def test_bins_of_up_to_five_cells(form):
    """In such bins the distance of samples varies most, from half a cell to a whole one."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 40, 2)).astype(np.float32)
    sides = 7 * np.linspace(0.5, 5, 90).repeat(2).reshape(-1, 2)
    corners = rng.uniform(-1, 41 - sides)
    boxes = (4 * np.concatenate([corners, corners + sides], axis=1)).astype(np.float32)
    pooled = pool(
        {2: jnp.asarray(features)}, jnp.asarray(boxes), jnp.array([160, 160]), 7, 0, form=form
    )
    np.testing.assert_allclose(
        pooled, oracles.roi_align(features, boxes, 0.25, 7, 0, False), atol=1e-4
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_mirrored_features_and_boxes_pool_mirrored_bins(sampling_ratio):
    """This holds for aligned RoIs only: torchvision's rule is half a cell off, to one side."""
    pyramid, boxes, canvas = random_pyramid(0, levels=(2,)), random_boxes(1), jnp.array([128, 192])
    mirrored = jnp.stack([192 - boxes[:, 2], boxes[:, 1], 192 - boxes[:, 0], boxes[:, 3]], axis=1)
    pooled = pool(pyramid, boxes, canvas, sampling_ratio=sampling_ratio, aligned=True)
    flipped = pool(
        {2: pyramid[2][:, ::-1]}, mirrored, canvas, sampling_ratio=sampling_ratio, aligned=True
    )
    np.testing.assert_allclose(flipped, pooled[:, :, ::-1], atol=1e-4)


def test_negative_sampling_ratio_is_refused():
    with pytest.raises(ValueError, match="sampling_ratio must be .*; got -1"):
        pool(random_pyramid(0), jnp.zeros((1, 4)), jnp.array([128, 192]), sampling_ratio=-1)


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match='"pallas" or "by_platform"; got \'scatter\''):
        pool(random_pyramid(0), jnp.zeros((1, 4)), jnp.array([128, 192]), form="scatter")


@pytest.mark.parametrize("sampling_ratio", [0, 1])
@both_forms
def test_map_ends_with_the_canvas(sampling_ratio, form):
    large, boxes = random_pyramid(1), jnp.asarray(random_boxes(1))
    canvas = (96, 150)  # Not whole cells of the coarser levels: maps are rounded up.
    cropped = {k: x[: -(-canvas[0] // 2**k), : -(-canvas[1] // 2**k)] for k, x in large.items()}
    changed = {
        k: x.at[cropped[k].shape[0] :].set(1e9).at[:, cropped[k].shape[1] :].set(1e9)
        for k, x in large.items()
    }
    pooled = pool(large, boxes, jnp.array(canvas), sampling_ratio=sampling_ratio, form=form)
    other = pool(cropped, boxes, jnp.array(canvas), sampling_ratio=sampling_ratio, form=form)
    tolerance = 0 if form == "gather" else 1e-6  # Products of other sizes round differently.
    np.testing.assert_allclose(pooled, other, rtol=0, atol=tolerance)
    other = pool(changed, boxes, jnp.array(canvas), sampling_ratio=sampling_ratio, form=form)
    np.testing.assert_array_equal(pooled, other)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@both_forms
def test_coordinates_that_are_not_finite_pool_zeros(sampling_ratio, form):
    meaningless = [[np.nan] * 4, [0, np.nan, 50, 50], [-np.inf, -np.inf, np.inf, np.inf]]
    boxes = jnp.asarray(np.resize(meaningless, (26, 4)), jnp.float32)
    pyramid, canvas = random_pyramid(0), jnp.array([128, 192])
    assert not pool(pyramid, boxes, canvas, sampling_ratio=sampling_ratio, form=form).any()
    gradient = pull_back(pyramid, boxes, canvas, jnp.ones((26, 2, 2, 3)), sampling_ratio, form=form)
    assert not any(level.any() for level in gradient.values())


@pytest.mark.parametrize("sampling_ratio", [0, 1])
@both_forms
def test_no_boxes(sampling_ratio, form):
    pyramid, boxes, canvas = random_pyramid(0), jnp.zeros((0, 4)), jnp.array([128, 192])
    assert pool(pyramid, boxes, canvas, sampling_ratio=sampling_ratio, form=form).shape == (
        0,
        2,
        2,
        3,
    )
    assert not pull_back(pyramid, boxes, canvas, jnp.ones((0, 2, 2, 3)), sampling_ratio, form=form)[
        2
    ].any()


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_bfloat16_features_are_summed_in_float32(sampling_ratio):
    pyramid, boxes, canvas = random_pyramid(2), jnp.asarray(random_boxes(2)), jnp.array([128, 192])
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), pyramid)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    pooled, exact_pooled = (
        pool(p, boxes, canvas, sampling_ratio=sampling_ratio) for p in (rounded, exact)
    )
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(pooled, exact_pooled.astype(jnp.bfloat16))
    gradient = pull_back(rounded, boxes, canvas, jnp.ones_like(pooled), sampling_ratio)
    exact_gradient = pull_back(exact, boxes, canvas, jnp.ones_like(exact_pooled), sampling_ratio)
    for level in LEVELS:
        assert gradient[level].dtype == jnp.bfloat16
        np.testing.assert_array_equal(gradient[level], exact_gradient[level].astype(jnp.bfloat16))


def test_einsum_with_bfloat16_features_sums_in_float32():
    """Only features and weights of columns are rounded; sums in bfloat16 would err much more."""
    pyramid, boxes, canvas = random_pyramid(2), jnp.asarray(random_boxes(2)), jnp.array([128, 192])
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), pyramid)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    pooled = pool(rounded, boxes, canvas, form="einsum")
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        pooled.astype(jnp.float32), pool(exact, boxes, canvas), rtol=2**-7, atol=2**-6
    )
    gradient = pull_back(rounded, boxes, canvas, jnp.ones_like(pooled), form="einsum")
    exact_gradient = pull_back(exact, boxes, canvas, jnp.ones(pooled.shape))
    for level in LEVELS:
        assert gradient[level].dtype == jnp.bfloat16
        np.testing.assert_allclose(
            gradient[level].astype(jnp.float32), exact_gradient[level], rtol=2**-7, atol=2**-7
        )


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@both_forms
def test_gradient_is_the_transpose_of_the_matrix(sampling_ratio, aligned, form):
    height, width = 5, 7
    boxes = np.delete(random_boxes(3, 20, 28), 3, axis=0)  # Box 3 would have a million samples.
    # One channel for each cell of the map.
    columns = np.eye(height * width).reshape(height, width, -1)
    matrix = oracles.roi_align(columns, boxes, 0.25, 2, sampling_ratio, aligned).reshape(
        -1, height * width
    )
    upstream = np.random.default_rng(3).normal(size=(len(boxes), 2, 2, 3)).astype(np.float32)
    features, canvas = random_pyramid(3, 20, 28, levels=(2,)), jnp.array([20, 28])
    gradient = pull_back(
        features, jnp.asarray(boxes), canvas, jnp.asarray(upstream), sampling_ratio, aligned, form
    )
    np.testing.assert_allclose(
        gradient[2].reshape(-1, 3), matrix.T @ upstream.reshape(-1, 3), atol=2e-3
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@both_forms
def test_gradient_is_adjoint_on_all_levels(sampling_ratio, form):
    pyramid, boxes, canvas = random_pyramid(4), jnp.asarray(random_boxes(4)), jnp.array([128, 192])
    if form == "einsum":
        boxes = jnp.tile(boxes, (9, 1))  # 234 RoIs of 2 bins: more than one group.
    pooled = pool(pyramid, boxes, canvas, sampling_ratio=sampling_ratio, form=form)
    upstream = jax.random.normal(jax.random.key(0), pooled.shape)
    gradient = pull_back(pyramid, boxes, canvas, upstream, sampling_ratio, form=form)
    through_features = sum(jnp.vdot(gradient[k], pyramid[k]) for k in LEVELS)
    assert all(gradient[k].any() for k in LEVELS)
    np.testing.assert_allclose(jnp.vdot(pooled, upstream), through_features, rtol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_boxes_get_no_gradient(sampling_ratio):
    pyramid, canvas = random_pyramid(0), jnp.array([128, 192])
    by_boxes = jax.grad(lambda b: align(pyramid, b, canvas, sampling_ratio=sampling_ratio).sum())
    gradient = jit(by_boxes)(jnp.asarray(random_boxes(0)))
    np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def batch():
    pyramids = jax.tree.map(
        lambda *x: jnp.stack(x), *[random_pyramid(seed, 64, 96) for seed in range(8)]
    )
    boxes = jnp.stack([jnp.asarray(random_boxes(seed, 64, 96)) for seed in range(8)])
    canvas = jnp.stack([jnp.array([64 - 4 * i, 96 - 8 * i]) for i in range(8)])
    return pyramids, boxes, canvas


def pooled_and_gradient(
    pyramid, boxes, canvas, sampling_ratio, form, wrap=lambda function: function
):
    pool_one = partial(align, boxes=boxes, canvas=canvas, sampling_ratio=sampling_ratio, form=form)
    pooled, pullback = jax.vjp(wrap(pool_one), pyramid)
    return pooled, pullback(jnp.sin(pooled))[0]


# The adaptive rule transforms as the fixed one does, and takes three times as long to compile.
ADAPTIVE = pytest.param((0, "gather"), marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[ADAPTIVE, (1, "gather"), (1, "einsum")], ids=str)
def one_by_one(request):
    """A sampling ratio, a form, and their results for each image alone."""
    sampling_ratio, form = request.param
    alone = jit(partial(pooled_and_gradient, sampling_ratio=sampling_ratio, form=form))
    results = [alone(*jax.tree.map(lambda x, i=i: x[i], batch())) for i in range(8)]
    return sampling_ratio, form, jax.tree.map(lambda *x: np.stack(x), *results)


def sharded(function, check_vma):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    mapped = jax.vmap(function)
    return jit(jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma))


@pytest.mark.parametrize(
    "transform",
    [
        lambda function: jit(jax.vmap(function)),
        lambda function: jit(jax.vmap(partial(function, wrap=jax.checkpoint))),
        jax.pmap,
        partial(sharded, check_vma=False),
        partial(sharded, check_vma=True),
        lambda function: jit(lambda *args: jax.lax.map(lambda x: function(*x), args)),
    ],
    ids=["vmap", "remat", "pmap", "shard_map", "shard_map with check_vma", "map"],
)
def test_every_transformation_gives_the_same(transform, one_by_one):
    sampling_ratio, form, expected = one_by_one
    actual = transform(partial(pooled_and_gradient, sampling_ratio=sampling_ratio, form=form))(
        *batch()
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


@pytest.mark.parametrize(
    "platform, form, gradient_form, forward, backward",
    [
        ("cpu", "gather", None, "gather", "gather"),
        ("cpu", "einsum", None, "einsum", "einsum"),
        ("cpu", "by_platform", None, "gather", "gather"),
        ("cuda", "gather", "einsum", "gather", "einsum"),
        ("cuda", "by_platform", None, "gather", "gather"),
        ("rocm", "by_platform", "einsum", "gather", "einsum"),
        ("tpu", "by_platform", None, "einsum", "einsum"),
        ("tpu", "gather", None, "gather", "gather"),
    ],
)
def test_form_and_platform_choose_the_program(platform, form, gradient_form, forward, backward):
    knobs = {"form": form, "gradient_form": gradient_form}
    arguments = random_pyramid(0), jnp.zeros((26, 4)), jnp.array([128, 192])
    pooled = jax.export.export(jax.jit(partial(align, **knobs)), platforms=[platform])(*arguments)
    pull_one = jax.jit(partial(pull_back.__wrapped__, **knobs))
    gradient = jax.export.export(pull_one, platforms=[platform])(
        *arguments, jnp.ones((26, 2, 2, 3))
    )
    for program, form in [(pooled, forward), (gradient, backward)]:
        multiplies = "stablehlo.dot_general" in program.mlir_module()
        assert multiplies == (form == "einsum")
    assert ("stablehlo.scatter" in gradient.mlir_module()) == (backward == "gather")


def test_one_program_for_two_platforms_holds_both_forms():
    arguments = random_pyramid(0), jnp.zeros((26, 4)), jnp.array([128, 192])
    exported = jax.export.export(
        jax.jit(partial(align, form="by_platform")), platforms=["cpu", "tpu"]
    )(*arguments)
    assert "stablehlo.dot_general" in exported.mlir_module()
    boxes = jnp.asarray(random_boxes(0))
    pooled = exported.call(arguments[0], boxes, arguments[2])
    np.testing.assert_allclose(pooled, pool(arguments[0], boxes, arguments[2]), atol=1e-6)
