"""Fuzzes for a given time, and counts the examples.

    python -m tests.fuzz --seconds 1800
    python -m tests.fuzz --seconds 600 --only weight_files --examples 2000

Each round is a process of its own, so a crash costs one round. A failure prints the command that
repeats it. Hypothesis keeps failures in `.hypothesis/`, and tries them first in the next run.
"""

import argparse
import collections
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 3600  # Seconds that a round may take.
# Without the check of types that other tests have: users run without it.
OPTIONS = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-q"]


def main() -> int:
    """Runs rounds until the time is over; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, required=True, help="no round starts after these")
    parser.add_argument("--only", default="", help="a part of the names of files")
    parser.add_argument("--examples", type=int, default=500, help="for each test in a round")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="of round 1")
    args = parser.parse_args()
    files = [x for x in sorted(Path(__file__).parent.glob("test_*.py")) if args.only in x.stem]
    end, seed, failed = time.monotonic() + args.seconds, args.seed, []
    counts: collections.Counter[str] = collections.Counter()
    while time.monotonic() < end:
        for file in files:
            if time.monotonic() >= end:
                break
            command = [*OPTIONS, str(file.relative_to(ROOT)), f"--hypothesis-seed={seed}"]
            output = _round(command, args.examples, counts)
            if output:
                again = f"FUZZ_EXAMPLES={args.examples} python -m pytest {shlex.join(command)}"
                print(f"{output}\nFAILED; to repeat: {again}", flush=True)
                failed.append(again)
        print(f"seed {seed}: {sum(counts.values())} examples so far", flush=True)
        seed += 1
    print(*(f"{counts[name]:9} {name}" for name in sorted(counts)), sep="\n")
    print(f"seeds {args.seed} to {seed - 1}, {len(failed)} failures", *failed, sep="\n")
    return 1 if failed else 0


def _round(command: list[str], examples: int, counts: collections.Counter[str]) -> str:
    """Runs a test file once, and adds to the counts; returns the output if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        counted = Path(folder) / "counts.json"
        variables = {"FUZZ_EXAMPLES": str(examples), "FUZZ_COUNTS": str(counted)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", f"--basetemp={folder}/pytest", *command],
            env=os.environ | variables,
            cwd=ROOT,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
        )
        if counted.exists():
            counts.update(json.loads(counted.read_text()))
    return "" if done.returncode == 0 else f"{done.stdout[-6000:]}\nexit code {done.returncode}"


if __name__ == "__main__":
    sys.exit(main())
