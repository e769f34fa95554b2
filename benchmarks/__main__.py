"""Measures this program against torchvision on one machine, row by row.

    python -m benchmarks [--output FILE] [--only TEXT]

Needs torch, torchvision and matplotlib. Writes a table (.md) and a plot (.png) beside the JSON
file. Each side of a row runs in its own process. The two results are compared before anything is
timed; then the sides take turns, and the medians count. With ``--only``, rows whose names do not
contain the text keep their figures in the file.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import machine, table
from benchmarks.cases import Case, all_cases
from benchmarks.contender import Contender, take_turns


def measure(case: Case, limits: machine.Limits) -> dict[str, Any]:
    """Compares and times the sides of a row; returns the figures."""
    programs = {"torchvision": case.theirs, "ours": case.ours}
    if case.also:
        programs["torchvision, channels last"] = case.also
    contenders = {}
    try:
        for name, (prepare, arguments) in programs.items():
            contenders[name] = Contender(prepare, *arguments)
        first = {name: contender.run() for name, contender in contenders.items()}
        if case.max_memory:
            # The first run creates arrays, such as momentum, that add to the peak of later runs.
            take_turns(contenders, rounds=2)
        memory = {name: contender.memory() for name, contender in contenders.items()}
        agreement = case.compare(contenders["torchvision"].result(), contenders["ours"].result())
        seconds = take_turns(contenders, case.rounds)
    finally:
        for contender in contenders.values():
            contender.close()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    floor = max(case.operations / limits.matmul, case.traffic / limits.copy)
    return {
        "agreement": agreement,
        "first": first,
        "seconds": seconds,
        "ratio": medians["torchvision"] / medians["ours"],
        "share": floor / medians["ours"] if floor else None,
        "memory": memory,
        "must": case.must,
        "aim": case.aim,
        "max_memory": case.max_memory,
    }


def main() -> int:
    """Writes the figures after every row, then the table and the plot."""
    from benchmarks import plot  # Imported late: contenders import this file without matplotlib.

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parent / "results" / f"{machine.name()}.json"
    help = "JSON; a table and a plot go beside it"
    parser.add_argument("--output", type=Path, default=default, metavar="FILE", help=help)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name")
    args = parser.parse_args()
    cases, found = all_cases(), {}
    if args.only and args.output.exists():
        found = json.loads(args.output.read_text())["rows"]
    limits = machine.limits()
    result = machine.describe() | {"limits": limits._asdict(), "rows": found}
    for case in cases:
        if args.only not in case.name:
            continue
        print(f"{case.name} ...", end=" ", file=sys.stderr, flush=True)
        found[case.name] = measure(case, limits)
        print(f"{found[case.name]['ratio']:.2f}x", file=sys.stderr)
        result["rows"] = {case.name: found[case.name] for case in cases if case.name in found}
        result["load after"] = round(os.getloadavg()[0], 2)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    text = table.to_markdown(result)
    args.output.with_suffix(".md").write_text(text)
    plot.draw(result, args.output.with_suffix(".png"))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
