"""Helpers for tests of modules."""

import jax
import numpy as np


def shaped(module, *args):
    """Shapes of the result, and the number of parameters and constants; nothing is computed."""
    result, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *args)
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in variables.items()
    }
    return result, sizes


def filled(module, *args, scale=1.0):
    """Random variables without running the initialisers, which would have to be compiled."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype("f"), shapes)
