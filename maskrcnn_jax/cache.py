"""What is kept between runs, in the user's cache folder: downloaded weights, and compiled programs."""

import os
from pathlib import Path

import jax


def folder() -> Path:
    """MASKRCNN_JAX_CACHE, or maskrcnn_jax in the user's cache folder (XDG_CACHE_HOME, or ~/.cache)."""
    if path := os.environ.get("MASKRCNN_JAX_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskrcnn_jax"


def keep_compiled_programs() -> None:
    """Lets jax find programs that an earlier process has compiled, in ``compiled`` of the cache folder.

    jax's own settings win: JAX_COMPILATION_CACHE_DIR is another folder, JAX_ENABLE_COMPILATION_CACHE=false turns it
    off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder() / "compiled"))
