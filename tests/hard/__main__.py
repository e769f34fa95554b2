"""Long and hard runs, by hand: hours in which a run is killed, starved and deceived.

    python -m tests.hard FOLDER [NAME ...]

Each case appends a line to FOLDER/results.jsonl: whether it passed, its seconds and what was seen.
Started again with the same folder, cases that have passed are skipped. NAME selects the cases whose
names begin so. Needs Linux and its command `unshare`, for disks that are small or read-only.
"""

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

from tests.hard import commands, data, disks, long_run, stops

CASES = long_run.CASES | stops.CASES | disks.CASES | data.CASES | commands.CASES
_INSIDE = "MASKRCNN_JAX_HARD_RUNS"  # Set in the namespace where disks can be mounted.


def main(folder: Path, chosen: list[str]) -> int:
    """Runs the cases that have not passed; returns 1 if one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    passed = {entry["case"] for entry in map(json.loads, lines) if entry["passed"]}
    failed = []
    for name, case in CASES.items():
        if name in passed or (chosen and not name.startswith(tuple(chosen))):
            continue
        entry = run(name, case, folder)
        with results.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)
        failed += [] if entry["passed"] else [name]
    print(f"failed: {', '.join(failed) or 'none'}; all results are in {results}")
    return 1 if failed else 0


def run(name: str, case, folder: Path) -> dict:
    """Runs one case in a folder of its own; a case that passes leaves nothing there."""
    own, begin = folder / name.replace(" ", "-"), time.monotonic()
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    try:
        seen, passed = case(own, folder), True
        shutil.rmtree(own, ignore_errors=True)
    except Exception:  # The next case is run all the same.
        seen, passed = traceback.format_exc(), False
    seconds = round(time.monotonic() - begin)
    return {"case": name, "passed": passed, "seconds": seconds, "seen": seen}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.hard", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="beginnings of names of cases; default: all")
    args = parser.parse_args()
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable]
        os.execvp("unshare", [*command, "-m", "tests.hard", *sys.argv[1:]])
    sys.exit(main(args.folder.absolute(), args.names))
