"""The user's cache folder, which keeps downloaded weights and compiled programs between runs."""

import logging
import os
import stat
from pathlib import Path

_logger = logging.getLogger(__name__)


def folder() -> Path:
    """The folder MASKRCNN_JAX_CACHE; by default maskrcnn_jax in XDG_CACHE_HOME or ~/.cache."""
    if path := os.environ.get("MASKRCNN_JAX_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskrcnn_jax"


def keep_compiled_programs() -> None:
    """Keeps compiled programs in the subfolder ``compiled`` for later processes.

    The settings of JAX take precedence: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. A folder that all users may write to is
    not used, because JAX runs what it finds there.
    """
    import jax  # Imported late: `folder` must work where jax does not.

    compiled = folder() / "compiled"
    if jax.config.jax_compilation_cache_dir is not None:
        return
    if any(is_open_to_all(path) for path in (compiled.parent, compiled)):
        _logger.warning("%s is not used: all users may write to it, and programs run", compiled)
        return
    jax.config.update("jax_compilation_cache_dir", str(compiled))


def is_open_to_all(path: Path) -> bool:
    """Whether every user of the machine may write to a folder."""
    return path.exists() and bool(path.stat().st_mode & stat.S_IWOTH)
