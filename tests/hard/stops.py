"""Twenty kills and ten SIGTERMs at random moments change no bit of the end of a run."""

import random
import signal
import time
from functools import partial
from pathlib import Path

from tests.hard.runs import (
    assert_not_lost,
    assert_same_end,
    finish,
    kill,
    log_of,
    newest,
    start,
    wait_for,
    whole,
)

KILLS_PER_RUN, TERMS_PER_RUN = 4, 5


def is_saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def is_evaluating(workdir: Path, after: int) -> bool:
    """Whether the newest entry of the log is a step whose evaluation is to come."""
    log = log_of(workdir)
    return len(log) > after and log[-1]["step"] % 4 == 0 and "bbox" not in log[-1]


def wait_for_moment(kind: str, workdir: Path, process, moments: random.Random) -> None:
    """Waits for a random moment of a kind."""
    before = len(log_of(workdir))
    if kind == "anywhere":
        time.sleep(moments.uniform(0, 12))
    elif kind == "save":
        wait_for(lambda: is_saving(workdir), process)
        time.sleep(moments.choice([0, 0.005, 0.02, 0.05]))
    elif kind == "evaluation":
        wait_for(lambda: is_evaluating(workdir, before), process)
        time.sleep(moments.uniform(0, 0.3))
    else:
        lines = before + moments.randrange(1, 4)
        wait_for(lambda: len(log_of(workdir)) >= lines, process)
        time.sleep(moments.uniform(0, 0.5))


def killed(seed: int, own: Path, folder: Path) -> str:
    """A run that is killed four times."""
    expected, moments, workdir = whole(folder), random.Random(seed), own / "run"
    kinds = ["anywhere", "save", "evaluation", "steps"]
    moments.shuffle(kinds)
    seen: list[str] = []
    while len(seen) < KILLS_PER_RUN:
        process = start(workdir, folder)
        kind = kinds[len(seen)]
        wait_for_moment(kind, workdir, process, moments)
        saved = newest(workdir)
        if not kill(process):  # It ended before its moment came.
            break
        assert_not_lost(workdir, saved)
        seen.append(f"{kind} at {newest(workdir)}{' while saving' * is_saving(workdir)}")
    finish(start(workdir, folder))
    assert_same_end(workdir, expected)
    return f"{len(seen)} kills: {', '.join(seen)}"


def terminated(seed: int, own: Path, folder: Path) -> str:
    """A run that gets SIGTERM five times."""
    expected, moments, workdir = whole(folder), random.Random(100 + seed), own / "run"
    seen = []
    for i in range(TERMS_PER_RUN):
        process = start(workdir, folder)
        before = len(log_of(workdir))
        if i:  # The first signal may come while the program starts.
            wait_for(partial(_is_longer, workdir, before), process)
        time.sleep(moments.uniform(0, 8 if i == 0 else 0.3))
        saved = newest(workdir)
        process.send_signal(signal.SIGTERM)
        if i:
            result = finish(process, None)
        else:
            process.communicate()  # Before the first step the signal ends the process itself.
            result = process
            assert result.returncode in (143, -signal.SIGTERM)
        assert_not_lost(workdir, saved)
        seen.append(f"{result.returncode} at {newest(workdir)}")
        if result.returncode == 0:
            break
    finish(start(workdir, folder))
    # A stop adds an entry to the log, and ends the mean of its steps there.
    assert_same_end(workdir, expected, log=False)
    return f"{len(seen)} signals: {', '.join(seen)}"


def _is_longer(workdir: Path, before: int) -> bool:
    return len(log_of(workdir)) > before


CASES = {f"kills {seed}": partial(killed, seed) for seed in range(1, 6)}
CASES |= {f"terms {seed}": partial(terminated, seed) for seed in range(1, 3)}
