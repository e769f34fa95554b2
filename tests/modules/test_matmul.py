import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.modules.matmul import matmul


@pytest.mark.parametrize("axes", [(), (7,), (2, 3, 5), (0, 4)])
def test_product_and_gradients_are_those_of_every_row(axes):
    rng = np.random.default_rng(0)
    x, matrix = rng.normal(size=(*axes, 4)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    upstream = rng.normal(size=(*axes, 3)).astype(np.float32)
    product, pull = jax.vjp(matmul, jnp.asarray(x), jnp.asarray(matrix))
    by_x, by_matrix = pull(jnp.asarray(upstream))
    np.testing.assert_allclose(product, np.einsum("...i,io->...o", x, matrix), atol=1e-5)
    np.testing.assert_allclose(by_x, np.einsum("...o,io->...i", upstream, matrix), atol=1e-5)
    expected = sum(np.outer(x[at], upstream[at]) for at in np.ndindex(axes))
    np.testing.assert_allclose(by_matrix, np.broadcast_to(expected, (4, 3)), atol=1e-5)
