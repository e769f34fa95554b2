"""Writes the statistics of a data set as one HTML page: tables and histograms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from maskrcnn_jax import whole_files
from maskrcnn_jax.report import page

_MOST_BARS = 40
_PER_OCTAVE = 2

# A script may use the scripts before it.
_SCRIPTS = ("elements.js", "charts.js", "lines.js", "statistics.js")

Numbers = Int[np.ndarray, " _"] | Float[np.ndarray, " _"]


def counts(title: str, values: Int[np.ndarray, " n"]) -> dict[str, Any]:
    """A histogram of whole numbers from 0: a bar for each, or for several if there are many."""
    most = int(values.max(initial=0))
    width = most // _MOST_BARS + 1
    edges = np.arange(0, most + width + 1, width)
    names = [str(x) if width == 1 else f"{x} to {x + width - 1}" for x in edges[:-1]]
    return _chart(title, values, edges - 0.5, names, [str(x) for x in edges[:-1]])


def octaves(title: str, values: Numbers, marks: Sequence[float | int]) -> dict[str, Any]:
    """A histogram of positive numbers on a logarithmic scale.

    Args:
        title: The name of the numbers.
        values: The numbers.
        marks: Numbers that get a vertical line.
    """
    both = np.log2(np.concatenate([values, np.array(marks, np.float64)]))
    first, last = np.floor(both.min()), np.floor(both.max()) + 1
    powers = np.linspace(first, last, int(last - first) * _PER_OCTAVE + 1)
    names = [f"{2**x:.3g} to {2**y:.3g}" for x, y in zip(powers, powers[1:], strict=False)]
    ticks = [f"{2**x:.3g}" for x in powers[:-1]]
    found = _chart(title, np.log2(values), powers, names, ticks)
    places = [(np.log2(mark) - first) / (last - first) for mark in marks]
    found["marks"] = [[place, f"{mark:g}"] for place, mark in zip(places, marks, strict=True)]
    return found


def shares(title: str, values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """A histogram of numbers from 0 to 1."""
    edges = np.linspace(0, 1, 21)
    names = [f"{x:.2f} to {x + 0.05:.2f}" for x in edges[:-1]]
    return _chart(title, values, edges, names, [f"{x:.2g}" for x in edges[:-1]])


def _chart(
    title: str, values: Numbers, edges: Numbers, names: list[str], ticks: list[str]
) -> dict[str, Any]:
    heights = np.histogram(values, edges)[0].tolist()
    return {"title": title, "counts": heights, "names": names, "ticks": ticks, "marks": []}


def write(
    path: str | Path,
    *,
    title: str,
    tables: Sequence[tuple[str, list[str], list[list[str]]]],
    charts: Sequence[dict[str, Any]],
) -> None:
    """Writes the page.

    Args:
        path: The file to write.
        title: Of the page.
        tables: The title, the head and the rows of each table.
        charts: Histograms as `counts`, `octaves` and `shares` return them.
    """
    data = {
        "title": title,
        "tables": [{"title": name, "head": head, "rows": rows} for name, head, rows in tables],
        "charts": list(charts),
    }
    whole_files.write_text(path, page.fill(data, "statistics.html", _SCRIPTS))
