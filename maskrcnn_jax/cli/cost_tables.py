"""Prints the predicted time of a compiled program, by stage, by kind and by instruction."""

import re
from collections.abc import Callable
from typing import Any

from rich.table import Table

from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.planning import chips
from maskrcnn_jax.planning.cost import cost
from maskrcnn_jax.planning.cost.cost import Cost
from maskrcnn_jax.planning.cost.schedule import Item

NUM_DEAREST = 25


def show(priced: Cost, console: Console) -> None:
    """Prints the tables of a cost, and what its figures are not."""
    is_tpu = isinstance(priced.chip, chips.TPU)
    for title, key in (("stage", _stage), ("kind", _kind)):
        console.print(_groups(title, priced, key, is_tpu))
    console.print(_dearest(priced, is_tpu))
    console.print(_summary(priced, is_tpu))
    for loop in priced.loops:
        text = f"assumed: {loop.turns:g} turns of the loop at {loop.source or 'an unknown line'}"
        console.print(text, highlight=False)
    for line in notes(priced):
        console.print(line, highlight=False)


def notes(priced: Cost) -> list[str]:
    """Says that no chip confirmed the figures, and how they were computed."""
    found = ["Not measured: no chip ran this. Collectives between chips are not priced."]
    if isinstance(priced.chip, chips.TPU):
        found.append(
            "The times follow from libtpu's schedule and from rates that are calibrated on single "
            "instructions: they compare programs better than they tell the time (docs/cost.md)."
        )
    else:
        found.append(
            "The times are a roofline over the compiled kernels, about 25 % either way: no "
            "algorithm was chosen by timing, caches are not modelled (docs/cost.md)."
        )
    if not priced.chip.is_checked:
        found.append(f"constants not checked: those of {priced.chip.name}.")
    return found


def _groups(title: str, priced: Cost, key: Callable[[Item], str], is_tpu: bool) -> Table:
    table = _table(title, "ms", "share", "compiler's ms" if is_tpu else "kernels", "GFLOP", "GB")
    for name, row in cost.group(priced.items, key).items():
        if not row.seconds:
            continue  # Copies beside the schedule have a line of their own.
        other = f"{row.estimate * 1e3:.3f}" if is_tpu else f"{row.runs:g}"
        table.add_row(
            name,
            f"{row.seconds * 1e3:.3f}",
            f"{row.seconds / priced.busy:.1%}",
            other,
            f"{row.flops / 1e9:.1f}",
            f"{row.traffic / 1e9:.3f}",
        )
    return table


def _dearest(priced: Cost, is_tpu: bool) -> Table:
    table = _table("dearest instructions", "ms", "turns", "peak" if is_tpu else "GFLOP", "MB")
    table.add_column("stage, kind, source", overflow="fold")
    timed = [item for item in priced.items if item.seconds]
    for item in sorted(timed, key=lambda item: -item.seconds)[:NUM_DEAREST]:
        price = item.price
        work = f"{price.flops / 1e9:.1f}"
        if is_tpu:
            work = f"{price.flops / (price.seconds * priced.chip.peak):.0%}"
        shape = re.sub(r"\{[^}]*\}", "", item.shape)
        table.add_row(
            f"{item.name} {shape[:60]}",
            f"{item.seconds * 1e3:.3f}",
            f"{item.turns:g}",
            work,
            f"{price.traffic / 1e6:.1f}",
            f"{item.stage}, {price.kind}, {item.source}",
        )
    return table


def _summary(priced: Cost, is_tpu: bool) -> Table:
    table = Table(show_header=False)
    traffic, beside = priced.total("traffic"), priced.total("overlapped")
    rows = {
        "predicted": f"{priced.seconds * 1e3:.2f} ms per step",
        "matrix units": f"{priced.matrix_share:.1%} of {priced.chip.peak / 1e12:.0f} TFLOP/s",
        "memory traffic": f"{traffic / 1e9:.2f} GB, {traffic / priced.chip.bandwidth * 1e3:.2f} ms "
        "at the published bandwidth",
    }
    if is_tpu:
        rows["compiler's estimate"] = f"{priced.estimate * 1e3:.2f} ms, uncorrected"
        rows["copies beside the schedule"] = f"{beside / 1e9:.2f} GB"
        bases = cost.group(priced.items, lambda item: item.price.basis)
        parts = [f"{name} {row.seconds * 1e3:.2f} ms" for name, row in bases.items()]
        rows["priced by"] = ", ".join(parts)
    else:
        host = priced.launches
        rows["kernels"] = (
            f"{sum(item.turns for item in priced.items):g}, {priced.busy * 1e3:.2f} ms"
        )
        rows["launches by the host"] = (
            f"{host.launches}, {host.graphs} of them CUDA graphs with {host.in_graphs} kernels"
        )
        rows["questions of the host"] = str(host.questions)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _table(title: str, *numbers: str) -> Table:
    table = Table(title, title_justify="left")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _stage(item: Item) -> str:
    return item.stage


def _kind(item: Item) -> str:
    return item.price.kind


def to_dict(priced: Cost) -> dict[str, Any]:
    """A cost as plain values for JSON."""
    groups = {
        title: {name: row._asdict() for name, row in cost.group(priced.items, key).items()}
        for title, key in (("stages", _stage), ("kinds", _kind))
    }
    dearest = sorted(priced.items, key=lambda item: -item.seconds)
    return groups | {
        "chip": priced.chip._asdict(),
        "seconds": priced.seconds,
        "estimate": priced.estimate,
        "matrix_share": priced.matrix_share,
        "launches": priced.launches and priced.launches._asdict(),
        "assumed_loops": [loop._asdict() for loop in priced.loops],
        "instructions": [item._asdict() | {"price": item.price._asdict()} for item in dearest],
        "notes": notes(priced),
    }
