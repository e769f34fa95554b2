"""Formats the figures of a run as a Markdown table."""

import statistics
from typing import Any

HEADER = ("", "torchvision", "channels last", "ours", "faster", "must", "aim", "share")
HEADER += ("peak memory", "agreement")


def to_markdown(result: dict[str, Any]) -> str:
    """A line about the machine and its rates, and a table of all rows."""
    limits = result["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"{result['cpu']}, {result['cores']} cores; float32 matrix products "
        f"{limits['matmul'] / 1e9:.0f} GFLOP/s, copies {limits['copy'] / 1e9:.1f} GB/s; "
        f"Python {result['python']}, {versions}; load {result['load before']} before, "
        f"{result['load after']} after (two threads work). A share is that of the machine's own "
        "limit: matrix products, or copies of what has to be read and written.",
        "",
        f"| {' | '.join(HEADER)} |",
        "|---" * len(HEADER) + "|",
        *(_row(name, row) for name, row in result["rows"].items()),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, row: dict[str, Any]) -> str:
    medians = {side: statistics.median(times) for side, times in row["seconds"].items()}
    also = medians.get("torchvision, channels last")
    cells = [
        name,
        _time(medians["torchvision"]),
        _time(also) if also else "",
        _time(medians["ours"]),
        f"**{row['ratio']:.2f}x**",
        f"{row['must']:g}x",
        f"{row['aim']:g}x",
        f"{row['share']:.0%}" if row["share"] else "",
        _memory(row) if row["max_memory"] else "",
        row["agreement"],
    ]
    return f"| {' | '.join(cells)} |"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _memory(row: dict[str, Any]) -> str:
    ours, theirs = (row["memory"][side] for side in ("ours", "torchvision"))
    return f"{ours / 2**20:.0f} MiB, {ours / theirs:.2f} of torchvision's"
