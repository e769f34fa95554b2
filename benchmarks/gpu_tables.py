"""Reads predictions, and writes the tables of `benchmarks.gpu`: measured beside predicted."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu_timing import Row

THEIRS = "torchvision: "  # The prefix of torchvision's rows.
NUM_KERNELS = 25
FIGURES = {  # Heading, scale and format of each figure.
    "images_per_second": ("images/s", 1, ".4g"),
    "seconds": ("ms", 1e3, ".4g"),
    "predicted": ("predicted, ms", 1e3, ".4g"),
    "faster": ("faster than torchvision", 1, ".2f"),
    "share": ("share", 1, ".1%"),
    "busy": ("kernels, ms", 1e3, ".4g"),
    "launches": ("kernels", 1, ".4g"),
    "temporary_bytes": ("temporaries, GiB", 2**-30, ".3g"),
    "trace_seconds": ("traced in, s", 1, ".3g"),
    "compile_seconds": ("compiled in, s", 1, ".3g"),
}


def read_predictions(files: Iterable[Path], bucket: tuple[int, int]) -> dict[str, Any]:
    """Predictions of ``maskrcnn-jax plan --cost --output FILE``, by the name of our row.

    Args:
        files: One for each program and number of images.
        bucket: Height and width of the images that are measured.

    Raises:
        ValueError: A file has no cost, or is for several devices or other images.
        OSError: A file cannot be read.
    """
    found = {}
    for file in files:
        try:
            plan = json.loads(file.read_text())
            cost, program, size = plan["cost"], plan["program"], plan["batch_size"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not an output of maskrcnn-jax plan: {error!r}") from error
        if cost is None or plan["stage"] is not None:
            raise ValueError(f"{file} has no cost of a whole program; plan it with --cost")
        if plan["num_devices"] != 1 or tuple(plan["bucket"]) != bucket:
            raise ValueError(
                f"{file} is for {plan['num_devices']} devices and images of {plan['bucket']}; "
                f"expected 1 device and {list(bucket)}"
            )
        kind, field = ("training", "training") if program == "train" else ("detection", "forward")
        found[f"{kind}, batch {size}"] = {
            "chip": cost["chip"]["name"],
            "seconds": cost["seconds"],
            "operations": size * plan["model_flops"][field],
            "stages": {name: row["seconds"] for name, row in cost["stages"].items()},
            "kinds": {name: row["seconds"] for name, row in cost["kinds"].items()},
        }
    return found


def is_current(result: dict[str, Any], name: str) -> bool:
    """Whether there is a row for this code; torchvision's rows do not depend on it."""
    row = result["rows"].get(name)
    return row is not None and (name.startswith(THEIRS) or row["code"] == result["code"])


def to_markdown(result: dict[str, Any]) -> str:
    """A line about the machine, and tables of all rows, checks and profiles."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    height, width = result["bucket"]
    rate = result.get("bfloat16_matmul", 0) / 1e12
    rows = {name: row for name, row in result["rows"].items() if "differences" not in row}
    chips = ", ".join(sorted({x["chip"] for x in result["predictions"].values()}))
    lines = [
        f"{result['device']}, {rate:.3g} TFLOP/s in bfloat16 matrix products; {versions}; "
        f"images of {height}x{width}.",
        "",
        *_table(["", *(heading for heading, _, _ in FIGURES.values())], _rows(result, rows)),
        f"Predicted: priced by the compiler for {chips or 'no card'}, without a card. "
        "Share: of the rate of matrix products. Kernels: of one profiled step.",
        "",
    ]
    for name, row in result["rows"].items():
        if "differences" in row:
            lines += _checks(name, row)
        if "stages" in row.get("profile", {}):
            lines += _profile(name, row["profile"], result["predictions"].get(name, {}))
        elif "profile" in row:
            lines += [f"No profile of {name}: {row['profile']['failed']}", ""]
    if result.get("not_run"):
        lines += [f"Not run: {'; '.join(result['not_run'])}."]
    return "\n".join(lines) + "\n"


def _rows(result: dict[str, Any], rows: dict[str, Row]) -> Iterable[list[str]]:
    for name, row in rows.items():
        stale = "" if is_current(result, name) else " (other code)"
        if "failed" in row:
            reason = row["failed"].replace("|", "/").replace("\n", " ")[:80]
            yield [name + stale, f"failed: {reason}", *[""] * (len(FIGURES) - 1)]
            continue
        figures = row | _relations(result, name, row)
        yield [
            name + stale,
            *(
                "" if figures.get(figure) is None else format(figures[figure] * scale, form)
                for figure, (_, scale, form) in FIGURES.items()
            ),
        ]


def _relations(result: dict[str, Any], name: str, row: Row) -> Row:
    """The figures of a row that follow from other figures."""
    found = {figure: row.get("profile", {}).get(figure) for figure in ("busy", "launches")}
    if prediction := result["predictions"].get(name):
        found["predicted"] = prediction["seconds"]
        operations = prediction["operations"] / row["seconds"]
        found["share"] = operations / result["bfloat16_matmul"]
    if seconds := result["rows"].get(THEIRS + name, {}).get("seconds"):
        found["faster"] = seconds / row["seconds"]
    return found


def _checks(name: str, row: Row) -> list[str]:
    lines = [f"## {name}", "", f"{row['passed']} passed, {len(row['failures'])} failed."]
    lines += [f"- {check}: {failure}" for check, failure in row["failures"].items()]
    if row["not_run"]:
        lines += [f"Not run: {'; '.join(row['not_run'])}."]
    return [*lines, ""]


def _profile(name: str, profile: dict[str, Any], prediction: dict[str, Any]) -> list[str]:
    """Tables of a profile: one step by stage, by kind and by kernel."""
    busy, span = profile["busy"] * 1e3, profile["seconds"] * 1e3
    lines = [
        f"## {name}, profiled",
        "",
        f"{profile['launches']:g} kernels take {busy:.2f} of {span:.2f} ms, under the profiler. "
        "Priced: the program that ran. Predicted: the program compiled without a card.",
        "",
    ]
    for field in ("stages", "kinds"):
        measured, predicted = profile[field], prediction.get(field, {})
        names = [*measured, *(x for x in predicted if x not in measured)]
        lines += _table(
            [field[:-1], "measured, ms", "priced, ms", "predicted, ms"],
            (
                [
                    x,
                    _ms(measured.get(x, {}).get("seconds")),
                    _ms(measured.get(x, {}).get("priced")),
                    _ms(predicted.get(x)),
                ]
                for x in names
            ),
        )
    kernels = profile["kernels"][:NUM_KERNELS]
    columns = ["kernel", "stage, kind, source", "runs", "measured, ms", "priced, ms"]
    return lines + _table(columns, map(_kernel, kernels))


def _kernel(row: Row) -> list[str]:
    origin = ", ".join(row[field] for field in ("stage", "kind", "source") if row.get(field))
    name = row["name"][:60].replace("|", "/")
    return [name, origin, f"{row['runs']:g}", _ms(row["seconds"]), _ms(row.get("priced"))]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def _table(headings: list[str], rows: Iterable[list[str]]) -> list[str]:
    cells = [headings, ["---"] * len(headings), *rows]
    return [*(f"| {' | '.join(row)} |" for row in cells), ""]
