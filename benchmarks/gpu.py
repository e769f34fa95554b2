"""Checks and times this package on one accelerator, beside a prediction and torchvision.

    python -m benchmarks.gpu --output FOLDER [--prediction FILE ...] [--minutes 8]

The first call checks all ops against NumPy, times and profiles training with 4 images, times
detection of 1, and times torchvision's training with 4. Each further call with the same folder
goes on where the last one stopped: the folder keeps figures (``result.json``, and ``result.md``
with tables), compiled programs, their text, and profiles. Our figures are measured again
after a change of the package. A call ends when its time is up; the tables list what was not run.

A prediction is what ``maskrcnn-jax plan --gpu h200 --batch-per-device 4 --cost --output FILE``
writes, for training or, with ``--program detect``, detection.

Needs jax, flax, optax, numpy and jaxtyping; torch and torchvision for the comparison. Nobody has
run this program on a GPU yet; ``--tiny`` tries it on a CPU.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jaxlib

from benchmarks import (
    gpu_checks,
    gpu_checks_maps,
    gpu_models,
    gpu_operators,
    gpu_tables,
    gpu_timing,
)
from benchmarks.gpu_models import Setup
from benchmarks.gpu_timing import Row

ROOT = Path(__file__).parents[1]
CHECKS = "ops against NumPy"
CHECK_SECONDS = 60.0
MARGIN = 10.0  # Seconds to end torchvision's process and to write before the time is up.
VARIANTS: dict[str, dict[str, Any]] = {
    "no options for GPUs": {"changes": {"on_gpu": False}},
    "RPN through maps": {"changes": {"rpn_windows": False}},
    "RoIAlign's gradient by einsum": {"changes": {"align_gradient": "einsum"}},
    "no Triton": {"options": {"xla_gpu_enable_triton_gemm": False}},
}


class Measurement(NamedTuple):
    """One row of the result."""

    name: str
    make: Callable[[], Row]


class Unfinished(Exception):
    """The time was up before a measurement ended."""


def measurements(setup: Setup, time_left: Callable[[], float]) -> list[Measurement]:
    """All measurements, the most important first.

    Args:
        setup: The sizes.
        time_left: The seconds until the call ends.
    """
    checks = partial(
        gpu_checks.run, gpu_checks.of_boxes() | gpu_checks_maps.of_maps(), CHECK_SECONDS
    )
    theirs = partial(torchvision, setup, time_left)
    found = [
        Measurement(CHECKS, checks),
        _train(setup, 4),
        _detect(setup, 1),
        Measurement(f"{gpu_tables.THEIRS}training, batch 4", partial(theirs, 4)),
        *(_train(setup, 4, variant) for variant in VARIANTS),
        *(_train(setup, batch_size) for batch_size in (8, 1)),
        _detect(setup, 8),
        Measurement(f"{gpu_tables.THEIRS}training, batch 8", partial(theirs, 8)),
        _train(setup, 16),
        Measurement(f"{gpu_tables.THEIRS}training, batch 1", partial(theirs, 1)),
    ]
    for backward in (True, False):
        for form in gpu_operators.FORMS:
            for overlapping in (False, True):
                name = f"RoIAlign {'backward' if backward else 'forward'}, {form}, RoIs "
                name += "overlap" if overlapping else "spread"
                rois = {"backward": backward, "overlapping": overlapping}
                make = partial(gpu_operators.roi_align, setup, form, **rois)
                found.append(Measurement(name, make))
    return found


def _train(setup: Setup, batch_size: int, variant: str = "") -> Measurement:
    name = f"training, batch {batch_size}" + (f", {variant}" if variant else "")
    settings = VARIANTS[variant] if variant else {}
    return Measurement(name, partial(gpu_models.train, setup, name, batch_size, **settings))


def _detect(setup: Setup, batch_size: int) -> Measurement:
    name = f"detection, batch {batch_size}"
    return Measurement(name, partial(gpu_models.detect, setup, name, batch_size))


def torchvision(setup: Setup, time_left: Callable[[], float], batch_size: int) -> Row:
    """Runs `gpu_torchvision` in a process of its own.

    Raises:
        RuntimeError: The process failed; the message is the end of its output.
        Unfinished: The time was up.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_torchvision", "--batch", str(batch_size)]
    height, width = map(str, setup.bucket)
    command += ["--height", height, "--width", width, "--repeats", str(setup.repeats)]
    command += ["--warm-up", "1"] if setup.tiny else []
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=time_left() - MARGIN
        )
    except subprocess.TimeoutExpired as error:
        raise Unfinished("the time was up") from error
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    known: list[Measurement], result: dict[str, Any], write: Callable[[], None], only: str = ""
) -> None:
    """Adds the rows that are missing, and writes before and after each.

    A failure becomes a row too. It is not measured again before all others are done, and neither
    is a row in which the process died.

    Args:
        known: All measurements.
        result: What `start` returns, and the version of the code.
        write: Saves the result.
        only: Measures those with this in their name.
    """
    rows, code = result["rows"], result["code"]
    if died := result.pop("running", None):
        rows[died] = {"failed": "the process died", "code": code}

    def not_run() -> list[str]:
        return [x.name for x in known if not gpu_tables.is_current(result, x.name)]

    missing = [x for x in known if x.name in not_run()]
    failed = [x for x in known if x not in missing and "failed" in rows[x.name]]
    for name, make in missing + failed:
        if only not in name:
            continue
        result |= {"not_run": not_run(), "running": name}
        write()
        start = time.monotonic()
        try:
            row = make()
        except Unfinished:
            break
        except Exception as error:  # The other figures still count.
            row = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        rows[name] = row | {"code": code, "row_seconds": time.monotonic() - start}
        numbers = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
        print(f"{name}: {row.get('failed') or ', '.join(numbers)}", file=sys.stderr, flush=True)
    result.pop("running", None)
    result["not_run"] = not_run()
    write()


def code_version() -> str:
    """A digest of the package, on which our figures depend."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "maskrcnn_jax").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def start(file: Path, description: dict[str, Any]) -> dict[str, Any]:
    """The result of earlier calls with the rows that they measured, or an empty one.

    Raises:
        ValueError: Another device, other versions or other sizes made the file.
    """
    result = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    for name, value in description.items():
        if result.get(name, value) != value:
            raise ValueError(
                f"{file} has {name} {result[name]}, but this call has {value}; name another folder"
            )
    return result | description


def main() -> int:
    """Measures until the time is up; returns 2 if the arguments do not fit, else 0."""
    args = _parse()
    end = time.monotonic() + 60 * args.minutes
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # The other half is for torch.
    args.output.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str((args.output / "compiled").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    bucket = (64, 128) if args.tiny else (800, 1344)
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__}
    description = {"device": jax.devices()[0].device_kind, "bucket": list(bucket)}
    file = args.output / "result.json"
    try:
        predictions = gpu_tables.read_predictions(args.prediction, bucket)
        result = start(file, description | {"versions": versions})
    except (OSError, ValueError) as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    result |= {"code": code_version(), "predictions": predictions}

    def write() -> None:
        _write(file, json.dumps(result, indent=1) + "\n")
        _write(file.with_suffix(".md"), gpu_tables.to_markdown(result))

    def stop() -> None:  # Nothing else interrupts XLA's compiler.
        try:
            result.pop("running", None)
            write()
        finally:
            os._exit(0)

    clock = threading.Timer(end - time.monotonic(), stop)
    clock.daemon = True
    clock.start()
    try:
        if "bfloat16_matmul" not in result:
            result["bfloat16_matmul"] = gpu_timing.matmul_rate()
        setup = Setup(bucket, args.repeats, args.tiny, args.output)
        known = measurements(setup, lambda: end - time.monotonic())
        measure(known, result, write, args.only)
    finally:
        clock.cancel()
    return 0


def _write(file: Path, text: str) -> None:
    """Replaces a file at once: a process may end at any time."""
    part = file.with_name(f"{file.name}.{threading.get_ident()}.part")
    part.write_text(text)
    part.replace(file)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--prediction", type=Path, nargs="+", default=[], metavar="FILE")
    add("--minutes", type=float, default=8.0, help="ends then in any case (default: 8)")
    add("--repeats", type=int, default=10, help="calls per round of three (default: 10)")
    add("--only", default="", metavar="TEXT", help="measurements with this in their name")
    add("--tiny", action="store_true", help="a small model and small images, for a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
