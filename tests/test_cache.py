"""Where things are kept between runs."""

from pathlib import Path

import jax
import pytest

from maskrcnn_jax import cache


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MASKRCNN_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.folder() == tmp_path / ".cache" / "maskrcnn_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache.folder() == Path("/elsewhere/maskrcnn_jax")
    monkeypatch.setenv("MASKRCNN_JAX_CACHE", "~/mine")
    assert cache.folder() == tmp_path / "mine"


@pytest.mark.parametrize("chosen", [None, "/elsewhere"])
def test_compiled_programs_are_kept_where_jax_is_not_told_otherwise(monkeypatch, tmp_path, chosen):
    monkeypatch.setenv("MASKRCNN_JAX_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", chosen)
        cache.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == (chosen or str(tmp_path / "compiled"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
