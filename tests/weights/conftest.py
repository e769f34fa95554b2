"""Weight files to read back."""

import contextlib

import pytest

from maskrcnn_jax.weights import files


@pytest.fixture
def write(tmp_path):
    """Writes arrays to a file; returns its path."""

    def write(state, name="weights.pth", metadata=None):
        files.write(tmp_path / name, state, metadata)
        return tmp_path / name

    return write


@pytest.fixture
def opened(tmp_path):
    """Opens a new file with this content, for reading and writing."""
    with contextlib.ExitStack() as stack:

        def open_new(content=b""):
            (tmp_path / "opened").write_bytes(content)
            return stack.enter_context(open(tmp_path / "opened", "r+b"))

        yield open_new
