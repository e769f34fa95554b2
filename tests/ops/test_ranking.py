"""The largest numbers: the programs of all platforms against a stable sort."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import ranking

FORMS = jax.lax.top_k, ranking._top_k_of_parts, ranking._top_k_by_threshold
whole, split, counted = (jax.jit(form, static_argnums=1) for form in FORMS)


@pytest.mark.parametrize("length, count", [(1000, 7), (1003, 30), (64, 8)])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_all_forms_equal_a_stable_sort(length, count, dtype):
    rng = np.random.default_rng(0)
    for num_values in (4, 10**6):  # Many equal numbers, and hardly any.
        x = rng.integers(-num_values, num_values, length).astype(dtype)
        if dtype == "float32":
            x[rng.random(length) < 0.3] = -np.inf
        best = np.argsort(-x.astype(np.float64), kind="stable")[:count]
        for form in (whole, split, counted):
            values, indices = form(x, count)
            np.testing.assert_array_equal(indices, best)
            np.testing.assert_array_equal(values, x[best])


@pytest.mark.parametrize("form", [split, counted])
def test_padding_is_never_among_the_best(form):
    x = jnp.full(1001, -jnp.inf)  # As small as the padding of the last part.
    assert form(x, 20)[1].tolist() == list(range(20))
    x = jnp.full(1001, jnp.iinfo(jnp.int32).min)
    assert form(x, 20)[1].tolist() == list(range(20))


@pytest.mark.parametrize("form", [split, counted])
def test_extreme_numbers(form):
    x = (
        jnp.zeros(500)
        .at[jnp.array([3, 77, 200, 401])]
        .set(jnp.array([-0.0, jnp.inf, 1e-30, -1e-30]))
    )
    values, indices = form(x, 8)
    assert indices.tolist() == [77, 200, 0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(values, x[indices])
    x = jnp.full(500, -1).at[400].set(jnp.iinfo(jnp.int32).max)
    assert form(x, 3)[1].tolist() == [400, 0, 1]


def test_a_batch_is_ranked_image_by_image():
    x = jax.random.normal(jax.random.key(0), (3, 1000))
    found = jax.jit(jax.vmap(partial(ranking._top_k_by_threshold, count=9)))(x)
    jax.tree.map(np.testing.assert_array_equal, found, tuple(jax.lax.top_k(x, 9)))


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_the_platform_chooses_the_form_where_few_of_many_are_wanted(platform):
    """A GPU ranks 8 parts of 400, a TPU reads rows of 128."""

    def text(count):
        program = jax.jit(jax.vmap(partial(ranking.top_k, count=count)))
        exported = jax.export.export(program, platforms=[platform])(jnp.zeros((2, 3200)))
        return exported.mlir_module()

    signs = {"2x25x128xf32": "tpu", "2x8x400xf32": "cuda"}
    assert {name for sign, name in signs.items() if sign in text(100)} == {platform} - {"cpu"}
    assert not any(sign in text(101) for sign in signs)
