"""Prints all results of recipes as tables in Markdown, and draws the losses of the comparison.

    python -m benchmarks.recipes.tables --plot docs/images/recipes.png

docs/results.md shows the tables. The picture needs matplotlib.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.recipes import results, settings
from benchmarks.recipes.results import NUMBERS, Difference, difference

COLORS = {"ours": "#1f6f8b", "torchvision": "#c8553d"}


def tables(entries: list[dict[str, Any]]) -> str:
    """All runs as tables in Markdown; each recipe that has runs gets one."""
    parts = []
    groups = {
        "Comparison with torchvision": (settings.COMPARISON,),
        "Best recipe": (settings.BEST,),
        "Ingredients, one seed of 200 steps": tuple(
            x for x in settings.NAMES if x.startswith(settings.SHORT)
        ),
        "Fruits and nuts, five folds": settings.FRUITS,
    }
    for title, names in groups.items():
        own = sorted(
            (x for x in entries if x["recipe"] in names),
            key=lambda x: (names.index(x["recipe"]), x["program"], x["seed"]),
        )
        if own:
            parts.append(f"### {title}\n\n{_table(own)}\n")
    if (found := difference(entries)) is not None:
        parts.insert(1, f"{_sentence(found)}\n")
    return "\n".join(parts) or "No run of a recipe is recorded yet.\n"


def _table(entries: list[dict[str, Any]]) -> str:
    lines = ["| recipe | program | seed | steps | mask AP / AP50 | box AP / AP50 | minutes |"]
    lines.append("|---|---|---|---|---|---|---|")
    for x in entries:
        numbers = [
            " / ".join(f"{x[kind][n]:.3f}" for n in NUMBERS[:2]) for kind in ("segm", "bbox")
        ]
        time = "-" if x["minutes"] is None else f"{x['minutes']:g}"
        cells = x["recipe"], x["program"], x["seed"], x["steps"], *numbers, time
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _sentence(found: Difference) -> str:
    return (
        f"Our mask AP minus torchvision's, over {found.num_seeds} seeds: mean {found.mean:+.4f}, "
        f"95 % interval from {found.low:+.4f} to {found.high:+.4f}."
    )


def plot(entries: list[dict[str, Any]], path: Path) -> None:
    """Draws the losses of the comparison by step: a line for each run."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    for entry in entries:
        if entry["recipe"] == settings.COMPARISON:
            style = {"color": COLORS[entry["program"]], "alpha": 0.7, "linewidth": 1}
            label = f"{entry['program']}, seed {entry['seed']}"
            axes.plot(entry["curve"]["step"], entry["curve"]["loss"], label=label, **style)
    axes.set(xlabel="step", ylabel="mean loss", ylim=(0, None))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """Prints the tables, and draws the plot on request."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=results.FILE, help="file of results")
    parser.add_argument("--plot", type=Path, help="picture to write")
    args = parser.parse_args(arguments)
    entries = results.read(args.results)
    print(tables(entries), end="")
    if args.plot:
        plot(entries, args.plot)


if __name__ == "__main__":
    main()
