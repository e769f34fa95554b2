"""Disks that fill or are read-only, output that nobody takes, clocks that jump, two commands.

Afterwards the same command goes on, and ends with the bits of a run that was never stopped.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from maskrcnn_jax import video
from maskrcnn_jax.runs import run_directory
from tests import train_process
from tests.hard.data import write_images
from tests.hard.runs import (
    RUN,
    assert_same_end,
    finish,
    kill,
    log_of,
    newest,
    start,
    wait_for,
    whole,
)

CANNOT_SAVE = "train.py: cannot save a checkpoint in"


@contextlib.contextmanager
def disk(path: Path, megabytes: float) -> Iterator[Path]:
    """A disk of its own in a folder."""
    path.mkdir()
    options = f"size={int(megabytes * 1024)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


def fill(path: Path) -> Path:
    """Fills the rest of a disk with one file, and returns it."""
    filler = path / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def megabytes(path: Path) -> float:
    """The space that a folder takes."""
    return int(subprocess.check_output(["du", "-sk", path]).split()[0]) / 1024


def told(result, *parts: str) -> str:
    """The only message of `train.py`, which must have all parts."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1 and all(part in lines[0] for part in parts), result.stderr
    return lines[0]


def full_while_saving(own: Path, folder: Path) -> str:
    """The first checkpoints fit, a later one does not."""
    expected = whole(folder)
    one = megabytes(expected / "checkpoints" / "24")
    seen = []
    with disk(own / "disk", 2.5 * one) as place:
        workdir = place / "run"
        result = finish(start(workdir, folder), 2)
        seen.append(told(result, f"{CANNOT_SAVE} {workdir / 'checkpoints'}", "No space left"))
        saved = newest(workdir)
        assert 0 < saved < RUN["num_steps"]
        assert run_directory.load_run(workdir).step == saved
        remount(place, "size=1g")
        finish(start(workdir, folder))
        assert_same_end(workdir, expected)
    return f"kept step {saved}; {seen}"


def full_while_logging(own: Path, folder: Path) -> str:
    """The disk is full between two saves, so that the log or TensorBoard's events fail first."""
    options = {"num_steps": 120, "log_every": 1, "save_every": 115, "evaluate_every": 0}
    expected = own / "expected"
    finish(start(expected, folder, **options))
    with disk(own / "disk", 500) as place:
        workdir = place / "run"
        process = start(workdir, folder, **options)
        wait_for(lambda: len(log_of(workdir)) >= 2, process)
        filler = fill(place)
        message = told(finish(process, 2), "cannot write", str(workdir), "No space left on device")
        filler.unlink()
        finish(start(workdir, folder, **options))
        assert_same_end(workdir, expected)
    return message


def full_at_the_end(own: Path, folder: Path) -> str:
    """The last checkpoint is saved; the results and the report find no space."""
    expected, last = whole(folder), RUN["num_steps"]
    with disk(own / "disk", 500) as place:
        workdir = place / "run"
        process = start(workdir, folder)
        wait_for(lambda: newest(workdir) == last, process)
        filler = fill(place)
        message = told(finish(process, 2), "cannot write", str(workdir), "No space left on device")
        assert run_directory.load_run(workdir).step == last
        filler.unlink()
        finish(start(workdir, folder))
        assert (workdir / "report.html").exists()
        assert_same_end(workdir, expected)
    return message


def file_size_limit(own: Path, folder: Path) -> str:
    """Larger files than 64 KiB cannot be written: no checkpoint, and later no report."""
    expected, workdir = whole(folder), own / "run"
    result = finish(start(workdir, folder, largest_file=64), 2)
    seen = [told(result, f"{CANNOT_SAVE} {workdir / 'checkpoints'}", "File too large")]
    finish(start(workdir, folder))
    assert_same_end(workdir, expected)
    (workdir / "report.html").unlink()
    seen.append(told(finish(start(workdir, folder, largest_file=4), 2), "cannot write"))
    finish(start(workdir, folder))
    return str(seen)


def read_only(own: Path, folder: Path) -> str:
    """A run directory on a disk that is read-only: a new run, and one to go on with."""
    expected = whole(folder)
    with disk(own / "disk", 500) as place:
        workdir = place / "run"
        process = start(workdir, folder)
        wait_for(lambda: newest(workdir) >= 4, process)
        kill(process)
        saved = newest(workdir)
        remount(place, "ro")
        seen = [told(finish(start(x, folder), 2), str(x)) for x in (workdir, place / "new")]
        assert run_directory.load_run(workdir).step == saved
        remount(place, "rw")
        finish(start(workdir, folder))
        assert_same_end(workdir, expected)
    return str(seen)


# Replaces standard output when the second line is to be written.
LOSES_OUTPUT = """
import os, runpy, sys
from maskrcnn_jax.runs.metrics import MetricsLog
flush = MetricsLog.flush
def flush_and_lose(self, step, *args, **values):
    if step >= 6:
        os.dup2(os.open({target!r}, os.O_WRONLY), 1)
    return flush(self, step, *args, **values)
MetricsLog.flush = flush_and_lose
runpy.run_path("train.py", run_name="__main__")
"""


def lost_output(own: Path, folder: Path) -> str:
    """Standard output is a full device, or a pipe that nobody reads: the run saves and stops."""
    expected, seen = whole(folder), []
    for name in ("full", "pipe"):
        workdir = own / name
        program = LOSES_OUTPUT.format(target="/dev/full")
        if name == "pipe":
            program = program.replace(
                "os.open('/dev/full', os.O_WRONLY)",
                "[pipe := os.pipe(), os.close(pipe[0])] and pipe[1]",
            )
        result = finish(start(workdir, folder, program=program), 2)
        seen.append(told(result, "cannot write to standard output", "saved after step 6"))
        finish(start(workdir, folder))
        assert_same_end(workdir, expected, log=False)
    return str(seen)


JUMPS = """
import runpy, time
now = time.time
time.time = lambda: now() + (0, -86_400, 3e8)[int(time.monotonic()) % 3]
runpy.run_path("train.py", run_name="__main__")
"""


def jumping_clock(own: Path, folder: Path) -> str:
    """The clock jumps by a day back and by ten years ahead, every second."""
    workdir = own / "run"
    process = start(workdir, folder, program=JUMPS)
    wait_for(lambda: newest(workdir) >= 8, process)
    kill(process)
    finish(start(workdir, folder, program=JUMPS))
    assert_same_end(workdir, whole(folder))
    speeds = [entry.get("images_per_second", 1) for entry in train_process.entries_of(workdir)]
    assert all(speed > 0 for speed in speeds)
    return "killed once; the same bits, and no negative speed"


def two_commands(own: Path, folder: Path) -> str:
    """A second run, and an evaluation, in the directory of a run that trains."""
    expected, workdir = whole(folder), own / "run"
    process = start(workdir, folder)
    wait_for(lambda: newest(workdir) >= 2, process)
    second = finish(start(workdir, folder), 2)
    seen = told(
        second, f"{workdir} is in use by train.py, process {process.pid} of {os.uname()[1]}"
    )
    command = ["evaluate", "--weights", workdir]
    third = finish(train_process.start_command(folder / "cache", *command), 2)
    assert "is in use by train.py" in third.stderr
    finish(process)
    assert_same_end(workdir, expected)
    finish(train_process.start_command(folder / "cache", *command))
    return seen


def commands_without_space(own: Path, folder: Path) -> str:
    """Every other command on a full disk: one message with the file, and nothing half-written."""
    write_images(own / "images", 4)
    run, images = whole(folder), ["--images", own / "images"]
    images += ["--annotations", own / "images" / "annotations.json"]
    photograph = own / "images" / "1.png"
    with video.write(own / "film.mp4", Fraction(10)) as append:
        append(np.zeros((64, 64, 3), np.uint8))
    weights, seen = ["--weights", run], []
    with disk(own / "disk", 50) as place:
        fill(place)
        for command in (
            *(["convert", run, place / f"a{end}"] for end in (".npz", ".pth", ".safetensors")),
            ["export", *weights, place / "a.npz", "--size", "64x64"],
            ["evaluate", *weights, "--output", place],
            ["evaluate", *weights, "--output", own, "--report", place / "a.html", "--force"],
            ["predict", photograph, *weights, "--output", place],
            ["predict", own / "film.mp4", *weights, "--output", place],
            ["data", "browse", *images, "--output", place],
            ["data", "split", *images, "--output", place],
            ["data", "prepare", *images, "--split", "val", "--output", place],
        ):
            result = finish(train_process.start_command(folder / "cache", *command), None)
            left = sorted(path.name for path in place.iterdir() if path.is_file())
            last = result.stderr.splitlines()[-1]
            seen.append(f"{result.returncode}: {last}")
            assert result.returncode == 2 and str(place) in last and "space" in last, seen
            # A video keeps the frames written so far.
            assert left == ["filler"] or own / "film.mp4" in command, (seen, left)
            for path in place.glob("film.*"):
                path.unlink()
    return str(seen)


CASES = {
    "disk full for commands": commands_without_space,
    "disk full while saving": full_while_saving,
    "disk full while logging": full_while_logging,
    "disk full at the end": full_at_the_end,
    "disk with a file-size limit": file_size_limit,
    "disk read-only": read_only,
    "output lost": lost_output,
    "clock jumps": jumping_clock,
    "two commands": two_commands,
}
