"""The largest numbers: the programs of all platforms against a stable sort."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import ranking

whole, split = (
    jax.jit(form, static_argnums=1) for form in (jax.lax.top_k, ranking._top_k_of_parts)
)


@pytest.mark.parametrize("length, count", [(1000, 7), (1003, 30), (64, 8)])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_both_forms_equal_a_stable_sort(length, count, dtype):
    rng = np.random.default_rng(0)
    for num_values in (4, 10**6):  # Many equal numbers, and hardly any.
        x = rng.integers(-num_values, num_values, length).astype(dtype)
        if dtype == "float32":
            x[rng.random(length) < 0.3] = -np.inf
        best = np.argsort(-x.astype(np.float64), kind="stable")[:count]
        for form in (whole, split):
            values, indices = form(x, count)
            np.testing.assert_array_equal(indices, best)
            np.testing.assert_array_equal(values, x[best])


def test_padding_is_never_among_the_best():
    x = jnp.full(1001, -jnp.inf)  # As small as the padding of the last part.
    assert split(x, 20)[1].tolist() == list(range(20))
    x = jnp.full(1001, jnp.iinfo(jnp.int32).min)
    assert split(x, 20)[1].tolist() == list(range(20))


@pytest.mark.parametrize(
    "platform, expected", [("cpu", False), ("tpu", False), ("cuda", True), ("rocm", True)]
)
def test_the_platform_chooses_the_form_where_few_of_many_are_wanted(platform, expected):
    def splits(count):
        program = jax.jit(jax.vmap(partial(ranking.top_k, count=count)))
        exported = jax.export.export(program, platforms=[platform])(jnp.zeros((2, 3200)))
        return "2x8x400xf32" in exported.mlir_module()

    assert splits(100) == expected
    assert not splits(101)
