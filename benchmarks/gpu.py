"""Times training, detection and operators on one accelerator, and torchvision's, in minutes.

    python -m benchmarks.gpu --output benchmarks/results/NAME.json [--minutes 8]

Needs jax, flax, optax, numpy and jaxtyping. Without torch and torchvision only our side runs. The
most important figures come first. The program writes the file and a table beside it (.md) after
each figure, and ends when the time is up, so even a short run gives some figures. Shares are
relative to the accelerator's measured rate of bfloat16 matrix products. Nobody has run this program
on a GPU yet; ``--tiny`` tests it on a CPU.
"""

import argparse
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib

from benchmarks import gpu_models, gpu_operators, gpu_timing
from benchmarks.gpu_models import Size
from benchmarks.gpu_timing import Row
from maskrcnn_jax.xla import cache

OTHERS = "torchvision: "  # The prefix of torchvision's rows.
FIGURES = {  # Heading, scale and format of each figure.
    "images_per_second": ("images/s", 1, ".4g"),
    "seconds": ("ms", 1e3, ".4g"),
    "faster": ("faster than torchvision", 1, ".2f"),
    "share": ("share", 1, ".1%"),
    "xla_flops": ("XLA: TFLOP", 1e-12, ".3g"),
    "xla_bytes": ("XLA: GB", 1e-9, ".3g"),
    "temporary_bytes": ("temporaries, GiB", 2**-30, ".3g"),
    "compile_seconds": ("compiled in, s", 1, ".3g"),
    "difference": ("differs from the first form", 1, ".1e"),
}

Plan = list[tuple[str, Callable[[], dict[str, Row]]]]


def plans(bucket: Size, repeats: int, tiny: bool) -> Plan:
    """All measurements by name, the most important first, with torchvision's if installed."""
    first, *batch_sizes = (1,) if tiny else (8, 1, 16, 2, 4)
    found = _pair("training", first, bucket, repeats, tiny)
    windows = partial(gpu_models.train, first, bucket, repeats, tiny, rpn_gradient="windows")
    found.append(_alone(f"{found[0][0]}, RPN through windows", windows))
    for batch_size in (1,) if tiny else (1, 8):
        found += _pair("detection", batch_size, bucket, repeats, tiny)
    for name, make in gpu_operators.all_of(bucket).items():
        found.append((name, partial(gpu_operators.measure, name, make, repeats)))
        found.append(_alone(OTHERS + name, partial(gpu_operators.torchvision, make, repeats)))
    for batch_size in batch_sizes:
        found += _pair("training", batch_size, bucket, repeats, tiny)
    compares = importlib.util.find_spec("torchvision") is not None and not tiny
    return [plan for plan in found if compares or not plan[0].startswith(OTHERS)]


def _pair(kind: str, batch_size: int, bucket: Size, repeats: int, tiny: bool) -> Plan:
    ours = {"training": gpu_models.train, "detection": gpu_models.detect}[kind]
    theirs = {
        "training": gpu_models.torchvision_train,
        "detection": gpu_models.torchvision_detect,
    }[kind]
    name = f"{kind}, bfloat16, batch {batch_size}"
    return [
        _alone(name, partial(ours, batch_size, bucket, repeats, tiny)),
        _alone(OTHERS + name, partial(theirs, batch_size, bucket, repeats)),
    ]


def _alone(name: str, measure: Callable[[], Row]) -> tuple[str, Callable[[], dict[str, Row]]]:
    return name, lambda: {name: measure()}


def to_markdown(result: dict[str, Any]) -> str:
    """A line about the machine, and a table of all rows."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    height, width = result["bucket"]
    rate = result["bfloat16_matmul"] / 1e12
    headings = ["", *(heading for heading, _, _ in FIGURES.values())]
    lines = [
        f"{result['device']}, {rate:.3g} TFLOP/s in bfloat16 matrix products; {versions}; "
        f"images of {height}x{width}.",
        "",
        f"| {' | '.join(headings)} |",
        "|---" * len(headings) + "|",
        *(f"| {' | '.join([name, *_cells(row)])} |" for name, row in result["rows"].items()),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    if "failed" in row:
        reason = row["failed"].replace("|", "/").replace("\n", " ")[:80]
        return [reason, *[""] * (len(FIGURES) - 1)]
    return [
        "" if row.get(name) is None else format(row[name] * scale, form)
        for name, (_, scale, form) in FIGURES.items()
    ]


def measure(plans: Plan, result: dict[str, Any], write: Callable[[], None]) -> None:
    """Adds the rows of all plans, and writes after each. A failure becomes a row too."""
    for name, make in plans:
        try:
            rows = make()
        except Exception as error:  # The other figures still count.
            rows = {name: {"failed": f"{type(error).__name__}: {str(error)[:300]}"}}
        result["rows"] |= rows
        _relate(result)
        write()
        for name, row in rows.items():
            numbers = (
                f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float)
            )
            print(f"{name}: {', '.join(numbers) or row}", file=sys.stderr, flush=True)


def _relate(result: dict[str, Any]) -> None:
    """Adds each row's share of the matmul rate, and the ratio of torchvision's time to ours."""
    rows = result["rows"]
    for name, row in rows.items():
        if "operations" in row:
            row["share"] = row["operations"] / row["seconds"] / result["bfloat16_matmul"]
        # Our names of operators end in the form, torchvision's names do not.
        for counterpart in (OTHERS + name, OTHERS + name.rpartition(", ")[0]):
            if {"seconds"} <= row.keys() & rows.get(counterpart, {}).keys():
                row["faster"] = rows[counterpart]["seconds"] / row["seconds"]


def main() -> int:
    """Writes the figures after each measurement."""
    args = _parse()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # The other half is for torch.
    # Nothing else interrupts XLA's compiler.
    clock = threading.Timer(60 * args.minutes, lambda: os._exit(0))
    clock.daemon = True
    clock.start()
    cache.keep_compiled_programs()
    bucket = (64, 128) if args.tiny else (800, 1344)
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__}
    result = {"device": jax.devices()[0].device_kind, "bucket": bucket}
    result |= {"bfloat16_matmul": gpu_timing.matmul_rate()}
    result |= {"versions": versions, "date": time.strftime("%Y-%m-%d"), "rows": {}}
    args.output.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
        args.output.with_suffix(".md").write_text(to_markdown(result))

    chosen = [plan for plan in plans(bucket, args.repeats, args.tiny) if args.only in plan[0]]
    measure(chosen, result, write)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="ends in .json")
    add("--minutes", type=float, default=8.0, help="ends then in any case (default: 8)")
    add("--repeats", type=int, default=10)
    add("--only", default="", metavar="TEXT", help="measurements with this in their name")
    add("--tiny", action="store_true", help="a small model and small images, for a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
