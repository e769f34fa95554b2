"""Small image files of many kinds, with the pixels that they hold."""

import io

import numpy as np


def pixels(*shape, dtype=np.uint16, seed=0):
    """Random pixels over the whole range of the type, or around 0 for floating point."""
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return (1000 * random.normal(size=shape)).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def npy(array):
    """The content of an .npy file; object arrays are pickled."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
