"""Profiles a program and sums the profile by kernel, stage and kind, for `benchmarks.gpu`."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from maskrcnn_jax.planning import hlo
from maskrcnn_jax.planning.cost import chips, gpu, origins
from maskrcnn_jax.planning.hlo import Instruction, Program

NUM_KERNELS = 400  # Kernels kept of a profile, the dearest ones.
UNKNOWN = "unknown"

# Kinds of kernels whose instruction is unknown: in a CUDA graph, the libraries' kernels carry no
# name of XLA's.
LIBRARY_KINDS = {
    "convolution, by kernel": r"wgrad|bprop_filter",
    "convolution, by input": r"dgrad|bprop_data",
    "convolution": r"fprop|cudnn|conv",
    "product": r"gemm|nvjet|cublas|cutlass",
    "sort": r"[Ss]ort",
    "layout": r"(?i)memcpy|nchw|nhwc",
    "memset": r"(?i)memset",
}


class Event(NamedTuple):
    """One run of a kernel."""

    name: str  # Of the kernel.
    instruction: str  # Of XLA's program; empty if the profiler does not know it.
    start: float  # In seconds.
    seconds: float


def file_name(name: str) -> str:
    """The name of a measurement as a name of a file."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


def record(run: Callable[[], Any], folder: Path) -> list[Event]:
    """Runs a function under the profiler, which writes into the folder.

    Raises:
        RuntimeError: The profiler wrote nothing, or saw no kernel.
    """
    with jax.profiler.trace(folder):
        run()
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise RuntimeError(f"the profiler wrote no file into {folder}")
    events = read(jax.profiler.ProfileData.from_file(str(files[-1])))
    if not events:
        raise RuntimeError(f"the profiler saw no kernel; its file is {files[-1]}")
    return events


def read(profile: Any) -> list[Event]:
    """The kernels of the first GPU, or the instructions of a CPU if the profile has no GPU.

    Args:
        profile: A `jax.profiler.ProfileData`.
    """
    planes = {plane.name: plane for plane in profile.planes}
    cards = sorted(name for name in planes if name.startswith("/device:GPU"))
    plane = planes.get(cards[0] if cards else "/host:CPU")
    found = []
    for line in plane.lines if plane else ():
        if cards and not line.name.startswith("Stream"):
            continue  # Sums over the streams.
        for event in line.events:
            instruction = str(dict(event.stats).get("hlo_op", ""))
            if cards or instruction:
                seconds = event.duration_ns / 1e9
                found.append(Event(event.name, instruction, event.start_ns / 1e9, seconds))
    return found


def summarise(events: list[Event], num_steps: int, text: str, device_kind: str) -> dict[str, Any]:
    """Sums of one step, in seconds, by kernel, stage and kind.

    Each kernel has the price that `maskrcnn-jax plan --cost` gives its instruction, in the program
    that ran. A sort is priced as one pass.

    Args:
        events: The kernels of the steps.
        num_steps: How many steps were profiled.
        text: The compiled program that ran.
        device_kind: Where it ran, `jax.Device.device_kind`. Without prices for it, kinds are those
            of XLA's instructions.
    """
    program, chip = hlo.parse(text), chips.GPUS.get(device_kind)
    by_kernel_name = {re.sub(r"\W", "_", name): name for name in program.instructions}
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        key = event.instruction or event.name
        if key not in rows:
            instruction = _instruction(event, program, by_kernel_name)
            rows[key] = {"name": event.name, "runs": 0.0, "seconds": 0.0}
            rows[key] |= _describe(event, instruction, program, chip)
        rows[key]["runs"] += 1 / num_steps
        rows[key]["seconds"] += event.seconds / num_steps
    kernels = sorted(rows.values(), key=lambda row: -row["seconds"])
    for row in kernels:
        if (price := row.pop("price")) is not None:
            row["priced"] = price * row["runs"]
    return {
        "steps": num_steps,
        "launches": len(events) / num_steps,
        "seconds": _span(events) / num_steps,
        "busy": _busy(events) / num_steps,
        "stages": _sum_by(kernels, "stage"),
        "kinds": _sum_by(kernels, "kind"),
        "kernels": kernels[:NUM_KERNELS],
    }


def _instruction(
    event: Event, program: Program, by_kernel_name: dict[str, str]
) -> Instruction | None:
    """The instruction that a kernel computes, as the profiler says, or by the kernel's name."""
    without_number = re.sub(r"__\d+$", "", event.name)
    for name in (event.instruction, event.name, without_number):
        name = name if name in program.instructions else by_kernel_name.get(name, "")
        if name:
            return program.instructions[name]
    return None


def _describe(
    event: Event, instruction: Instruction | None, program: Program, chip: chips.GPU | None
) -> dict[str, Any]:
    if instruction is None:
        kinds = (kind for kind, pattern in LIBRARY_KINDS.items() if re.search(pattern, event.name))
        return {"stage": UNKNOWN, "kind": next(kinds, UNKNOWN), "price": None}
    try:
        price = gpu.price(program, chip, 1.0, instruction) if chip else None
    except (IndexError, KeyError, ValueError):
        price = None  # With a card XLA emits kernels that it does not emit without one.
    return {
        "instruction": instruction.name,
        "stage": origins.stage_of(program, instruction) or origins.OTHER,
        "source": origins.source_of(program, instruction),
        "kind": price.kind if price else instruction.opcode,
        "price": price and price.seconds,
    }


def _sum_by(kernels: list[dict[str, Any]], field: str) -> dict[str, dict[str, float]]:
    """Seconds and priced seconds of each group, the dearest first."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"seconds": 0.0, "priced": 0.0})
    for row in kernels:
        group = found[row[field]]
        group["seconds"] += row["seconds"]
        group["priced"] += row.get("priced", 0.0)
    return dict(sorted(found.items(), key=lambda item: -item[1]["seconds"]))


def _span(events: list[Event]) -> float:
    """From the start of the first kernel to the end of the last."""
    return max(x.start + x.seconds for x in events) - min(x.start for x in events)


def _busy(events: list[Event]) -> float:
    """The time in which at least one kernel ran."""
    total, end = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        stop = event.start + event.seconds
        total += max(0.0, stop - max(event.start, end))
        end = max(end, stop)
    return total
