"""`maskrcnn-jax doctor`: versions, devices, folders and known problems, for a bug report."""

import argparse
import os
import platform
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import maskrcnn_jax
from maskrcnn_jax.cli import requirements
from maskrcnn_jax.xla import cache, jaxlib_errors

SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")
VARIABLES = ("XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_NOT_FOR_USERS = ("test", "benchmarks")
_NAME_WIDTH = 20  # Of the first column.
_LEAST_SPACE = 2**30  # Bytes; a checkpoint of the ResNet-50 with momentum takes 350 MB.


def run(args: argparse.Namespace) -> int:
    """Prints a report that may be pasted into a bug report; returns 1 if it names a problem."""
    devices, problems = find_devices()
    lines = list(report(devices))
    problems += [*version_problems(), *device_problems(devices), *folder_problems()]
    lines += [("problem", problem) for problem in problems] or [("problems", "none known")]
    for name, value in lines:
        print(f"{name:<{_NAME_WIDTH}}{value}".replace(str(Path.home()), "~"))
    return 1 if problems else 0


def report(devices: list[Any]) -> Iterator[tuple[str, str]]:
    """The lines of the report before the problems: a name and a value."""
    yield "maskrcnn-jax", f"{maskrcnn_jax.__version__} in {Path(maskrcnn_jax.__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in SHOWN:
        yield name, requirements.installed(name) or "not installed"
    for name in filter(requirements.installed, PLUGINS):
        yield name, requirements.installed(name) or ""
    yield from extras()
    yield "machine", f"{os.cpu_count()} CPUs, {_gib(_memory())} of memory"
    counts = Counter(f"{device.device_kind} ({device.platform})" for device in devices)
    yield "devices", ", ".join(f"{count} x {kind}" for kind, count in counts.items()) or "none"
    yield "cache", f"{cache.folder()}, {_gib(size(cache.folder()))}"
    yield "free space", f"{_gib(free(cache.folder()))} in the cache, {_gib(free(Path.cwd()))} here"
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]


def extras() -> Iterator[tuple[str, str]]:
    """Each extra with the versions of the packages that only it needs."""
    needed = requirements.of("maskrcnn-jax")
    always = {name for name, _, extra in needed if extra is None}
    packages: dict[str, dict[str, str | None]] = {}
    for name, _, extra in needed:
        if extra and extra not in _NOT_FOR_USERS and name not in always:
            packages.setdefault(extra, {})[name] = requirements.installed(name)
    for extra, versions in packages.items():
        found = [f"{name} {version or 'not installed'}" for name, version in versions.items()]
        yield f"extra {extra}", ", ".join(found) if any(versions.values()) else "not installed"


def find_devices() -> tuple[list[Any], list[str]]:
    """The devices of jax, or none and the problem."""
    try:
        import jax  # Imported late: this may be what fails.

        return jax.devices(), []
    except Exception as error:  # Broken installations fail in many ways.
        return [], [f"jax cannot be used: {type(error).__name__}: {error}"]


def version_problems() -> Iterator[str]:
    """Versions that do not fit together."""
    for package in ("maskrcnn-jax", "jax"):
        yield from requirements.unmet(package)
    if not jaxlib_errors.avoided():
        yield (
            f"jaxlib {requirements.installed('jaxlib')} computes wrong numbers on CPUs with this "
            f"XLA_FLAGS: leave {jaxlib_errors.YNNPACK} out, or empty"
        )


def device_problems(devices: Iterable[Any], folder: Path = Path("/dev")) -> Iterator[str]:
    """Accelerators of this machine that jax does not use, unless JAX_PLATFORMS asks for that."""
    if "JAX_PLATFORMS" in os.environ or {device.platform for device in devices} != {"cpu"}:
        return
    if (folder / "nvidiactl").exists():
        yield "there is an NVIDIA GPU, but jax has only CPUs: pip install 'jax[cuda13]'"
    if any(folder.glob("accel*")):
        yield "there may be a TPU, but jax has only CPUs: pip install 'jax[tpu]'"


def folder_problems() -> Iterator[str]:
    """A cache that cannot be used, and disks that are almost full."""
    folder = cache.folder()
    if folder.exists() and not os.access(folder, os.W_OK):
        yield f"the cache {folder} cannot be written to: MASKRCNN_JAX_CACHE names another one"
    if cache.is_open_to_all(folder):
        yield f"all users may write to the cache {folder}, so it keeps no compiled programs"
    for place in dict.fromkeys((folder, Path.cwd())):
        if free(place) < _LEAST_SPACE:
            yield f"less than {_gib(_LEAST_SPACE)} is free in {place}"


def free(folder: Path) -> int:
    """The free bytes of the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size(folder: Path) -> int:
    """The bytes of all files below a folder; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
