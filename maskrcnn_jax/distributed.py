"""Several processes that train together, one for each host or GPU: how they find each other, share results and stop.

Each runs the same program, over the devices of all of them. Process 0 alone prints and writes logs; every process takes
part in saving checkpoints, so all see one run directory.
"""

import contextlib
import json
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# After so many seconds without a sign of life a process is taken for dead, and the others stop.
HEARTBEAT_SECONDS = 60
EXIT_PREEMPTED = 128 + signal.SIGTERM  # What a shell reports of a process that SIGTERM ended.
EXIT_LOST = 1  # Another process has died.


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the other processes; must come before anything that uses a device.

    Args:
        coordinator: ``HOST:PORT`` of process 0. All three are found out on TPU pods, under Slurm and Open MPI, and in
            GKE; elsewhere they must be given.

    Raises:
        ValueError: They were not given, and nothing says what they are.
        ConnectionError: The processes did not come together within five minutes.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(f"the {num_processes or ''} processes did not come together: {error}") from error


def is_first() -> bool:
    """Whether this process is the one that prints and writes logs."""
    return jax.process_index() == 0


def started() -> bool:
    """Whether `initialize` was called."""
    return jax.distributed.is_initialized()


@contextlib.contextmanager
def first_goes_first(what: str) -> Iterator[None]:
    """The first process runs the block before the others do, who find on disk what it left there."""
    if not is_first():
        wait_for_all(what)
    yield
    if is_first():
        wait_for_all(what)


def gather(records: list[Any]) -> list[Any]:
    """The records of all processes, each process's after those of the one before; values that JSON can hold."""
    if jax.process_count() == 1:
        return records
    text = np.frombuffer(json.dumps(records).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    parts = [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
    return [record for part in parts for record in part]


def wait_for_all(where: str) -> None:
    """Returns when every process has come to this point, which all must name alike."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


class Preempted(Exception):
    """The machine is about to be taken away; everything is saved up to some step."""


class Preemption:
    """Notices SIGTERM, which schedulers send some time before they take a machine away."""

    def __init__(self) -> None:
        self.noticed = False  # Of a run with one process; several agree on a step instead.
        self._previous = signal.signal(signal.SIGTERM, self._notice) if jax.process_count() == 1 else None

    def reached(self, step: int) -> bool:
        """Whether to save after this step and stop; all processes must ask after every step, and all hear the same."""
        if jax.process_count() == 1:
            return self.noticed
        return multihost_utils.reached_preemption_sync_point(step)

    def close(self) -> None:
        """Leaves SIGTERM as it was."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _notice(self, signal_number: int, frame: FrameType | None) -> None:
        self.noticed = True
