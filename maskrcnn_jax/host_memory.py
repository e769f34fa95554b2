"""Memory of the machine that a program gives back and asks for again, image by image."""

import ctypes
import importlib.metadata
import importlib.util
import math
import mmap
import os
import sys

import numpy as np
from jaxtyping import Float32

# Of malloc.h. A single arena, because only the first one may grow beyond 64 MiB.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
ROOM = 2**30  # Bytes: more than weights take, less than a step of training.


def keep() -> None:
    """Keeps freed memory for the next image instead of returning it to the kernel, where XLA can only use the CPU.

    XLA asks for its working memory before every run and frees it afterwards. In glibc's default settings each such
    block is new to the process, and the kernel fills it with zeros page by page, which takes up to a third of the time
    of a convolution. The process stays as large as it was at its largest. Must come before XLA starts its threads;
    whoever has set MASKRCNN_JAX_KEEP_MEMORY=0, or MALLOC_ARENA_MAX, MALLOC_MMAP_MAX_ or MALLOC_TRIM_THRESHOLD_, in the
    environment is left alone.
    """
    chosen = {"MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys()
    chosen |= {os.environ.get("MASKRCNN_JAX_KEEP_MEMORY")} & {"0"}
    if chosen or not sys.platform.startswith("linux") or _has_accelerator():
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
        library.mallopt(option, value)
    _make_room(library)


def zeros(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Zeros in memory of their own, which goes back to the kernel with the array; pages never written take none.

    For large results that stay with the caller: between the blocks that are kept for XLA they would leave gaps, and the
    next run would find none that is large enough.

    Raises:
        MemoryError: The machine has less.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS") or not math.prod(shape):
        return np.zeros(shape, np.float32)
    try:
        memory = mmap.mmap(-1, 4 * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for an array of shape {shape}") from error
    return np.frombuffer(memory, np.float32).reshape(shape)


def _make_room(library: ctypes.CDLL) -> None:
    """Leaves a gap for small blocks that stay. They go to the smallest gap they fit in, of whatever size it is.

    Else that may be the one that XLA's working memory leaves between two runs: the next run finds it too small, and the
    process grows. A training step of R50-FPN on one image of 800x1088 stays at 3.4 GB with the gap, and went to 6.0
    without. It is no cure for all: a program whose working memory fits into the gap can still grow to twice its size.
    What nobody writes to takes no memory.
    """
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    gap = library.malloc(ROOM)
    library.malloc(ROOM // 8)  # Stays, so that the gap does not become one with all that follows.
    library.free(gap)


def _has_accelerator() -> bool:
    """Whether jax could use one: a plugin for it is installed, or libtpu. Asking jax would start its threads."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
