"""The names a user imports."""

import subprocess
import sys

import pytest

import maskrcnn_jax


def test_every_public_name_can_be_imported():
    for name in maskrcnn_jax.__all__:
        assert getattr(maskrcnn_jax, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="MaskCNN"):
        maskrcnn_jax.MaskCNN  # noqa: B018


def test_importing_the_package_alone_imports_neither_jax_nor_flax():
    code = "import sys, maskrcnn_jax; assert not {'jax', 'flax'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
