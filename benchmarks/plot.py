"""Plots the figures of a run: the ratio of torchvision's time to ours for each row."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

OURS, REQUIRED = "#8fb4de", "#c2410c"


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes a PNG with a bar for each row, and a mark at the ratio that the row must reach."""
    rows = result["rows"]
    names, ratios = list(rows), [row["ratio"] for row in rows.values()]
    figure = Figure(figsize=(9, 0.6 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, [ratio - 1 for ratio in ratios], left=1, height=0.7, color=OURS)
    axes.bar_label(bars, [f"{ratio:.2f}x" for ratio in ratios], padding=4)
    musts = [row["must"] for row in rows.values()]
    axes.scatter(
        musts, names, marker="|", s=160, linewidths=2, color=REQUIRED, zorder=3, label="required"
    )
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.95 * min(1, *ratios), 1.5 * max(ratios))
    ticks = [tick for tick in (1, 2, 4, 8, 16, 32) if tick < 1.5 * max(ratios)]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.invert_yaxis()
    title = f"Faster than torchvision, on {result['cores']} cores of {result['cpu']}"
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110)
