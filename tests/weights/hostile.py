"""A small state dict byte by byte, and the check that a broken one is refused by name."""

import numpy as np
import pytest

from maskrcnn_jax.weights import files
from tests.weights import pytorch_bytes as build

FOUR = np.arange(4, dtype=np.float32)


def tensor(shape=(4,), strides=(1,), offset=0, num_elements=4):
    return build.mapping(
        {"x": build.tensor(build.storage("0", num_elements), shape, strides, offset)}
    )


def assert_refused(tmp_path, content, match=""):
    path = tmp_path / "hostile.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"hostile.pth.*{match}"):
        files.read(path)
