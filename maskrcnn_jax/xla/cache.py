"""The user's cache folder, which keeps downloaded weights and compiled programs between runs."""

import os
from pathlib import Path

import jax


def folder() -> Path:
    """The folder MASKRCNN_JAX_CACHE; by default maskrcnn_jax in XDG_CACHE_HOME or ~/.cache."""
    if path := os.environ.get("MASKRCNN_JAX_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskrcnn_jax"


def keep_compiled_programs() -> None:
    """Keeps compiled programs in the subfolder ``compiled`` for later processes.

    The settings of JAX take precedence: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder() / "compiled"))
