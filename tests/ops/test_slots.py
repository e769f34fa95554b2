"""Chunks of slots against all slots at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.slots import join, map_chunks, split


def double_and_sum(x, y):
    return 2 * x + y.sum(-1)


def test_zeros_fill_the_last_chunk():
    chunks = split(jnp.arange(1, 6), 2)
    assert chunks.tolist() == [[1, 2], [3, 4], [5, 0]]
    assert join(chunks, 5).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_chunks_equal_the_whole(size):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 7)).astype("f"), rng.normal(size=(2, 7, 4)).astype("f")
    valid = np.ones((2, 7), bool)
    found = jax.jit(lambda *slots: map_chunks(double_and_sum, size, *slots))(valid, x, y)
    np.testing.assert_allclose(found, double_and_sum(x, y), rtol=1e-6)


def test_no_chunk_is_larger_than_the_slots():
    seen = []

    def note(x):
        seen.append(x.shape)
        return x

    map_chunks(note, 32, jnp.ones((2, 5), bool), jnp.ones((2, 5)))
    assert set(seen) == {(2, 5)}


def test_a_chunk_without_a_valid_slot_is_zero():
    x, y = np.ones((2, 6), "f"), np.ones((2, 6, 4), "f")
    valid = np.zeros((2, 6), bool)
    valid[1, 3] = True  # One slot of one image is enough for its chunk.
    found = jax.jit(lambda *slots: map_chunks(double_and_sum, 2, *slots))(valid, x, y)
    np.testing.assert_array_equal(found, [[0, 0, 6, 6, 0, 0]] * 2)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_nothing_to_map(shape):
    x, y, valid = jnp.ones(shape), jnp.ones((*shape, 4)), jnp.ones(shape, bool)
    assert map_chunks(double_and_sum, 2, valid, x, y).shape == shape
