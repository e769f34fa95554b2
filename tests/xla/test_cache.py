"""The cache folder, and compiled programs in it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from maskrcnn_jax.xla import cache


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


@pytest.mark.parametrize(
    "settings, folder",
    [
        ({}, "mine/compiled"),
        ({"JAX_COMPILATION_CACHE_DIR": "theirs"}, "theirs"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, None),
    ],
)
def test_programs_are_written_unless_that_is_turned_off(tmp_path, settings, folder):
    code = (
        "import jax; from maskrcnn_jax.xla import cache; "
        "cache.keep_compiled_programs(); jax.jit(lambda x: x + 1)(1)"
    )
    default = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    own = {"MASKRCNN_JAX_CACHE": "mine", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    path = {"PYTHONPATH": str(Path(cache.__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-c", code], env=default | own | path | settings, cwd=tmp_path, check=True
    )
    assert {file.parent for file in tmp_path.rglob("jit_*")} == (
        {tmp_path / folder} if folder else set()
    )


@pytest.mark.parametrize("place", [".", "compiled"])
def test_programs_of_others_are_not_run(monkeypatch, tmp_path, caplog, place):
    """In a folder that all users may write to, anyone could have put a program."""
    monkeypatch.setenv("MASKRCNN_JAX_CACHE", str(tmp_path))
    (tmp_path / "compiled").mkdir()
    (tmp_path / place).chmod(0o777)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        cache.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert f"{tmp_path / 'compiled'} is not used" in caplog.text
