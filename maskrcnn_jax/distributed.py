"""Processes that train together, one for each host or GPU.

The processes find each other, share results and stop together. Each runs the same program over the
devices of all processes. Only process 0 prints and writes logs. All processes save checkpoints
together, so all must see the same run directory.
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

# After this many seconds without a heartbeat a process counts as dead, and the others stop.
HEARTBEAT_SECONDS = 60
EXIT_PREEMPTED = 128 + signal.SIGTERM  # The code that shells give for SIGTERM.
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_LOST = 1  # Another process has died.


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes. Must be called before any device is used.

    TPU pods, Slurm, Open MPI and GKE provide all three arguments; elsewhere they must be given.

    Args:
        coordinator: ``HOST:PORT`` of process 0.
        num_processes: The number of processes.
        process_id: The index of this process, from 0.

    Raises:
        ValueError: The arguments were not given, and the environment does not provide them.
        ConnectionError: The processes did not come together within five minutes.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        message = f"the {num_processes or ''} processes did not come together: {error}"
        raise ConnectionError(message) from error


def is_first() -> bool:
    """Whether this is process 0, which prints and writes logs."""
    return jax.process_index() == 0


def started() -> bool:
    """Whether `initialize` was called."""
    return jax.distributed.is_initialized()


@contextlib.contextmanager
def first_goes_first(what: str) -> Iterator[None]:
    """Runs the block in process 0 first, so that the other processes find its files on disk."""
    if not is_first():
        wait_for_all(what)
    yield
    if is_first():
        wait_for_all(what)


def gather(records: list[Any]) -> list[Any]:
    """Concatenates the records of all processes in their order. Records must be JSON values."""
    if jax.process_count() == 1:
        return records
    text = np.frombuffer(json.dumps(records).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    pairs = zip(rows, lengths, strict=True)
    parts = [json.loads(row[:length].tobytes()) for row, length in pairs]
    return [record for part in parts for record in part]


def wait_for_all(where: str) -> None:
    """A barrier: returns when all processes have called it with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


class Preempted(Exception):
    """A signal came, and the state of the last step is saved.

    Attributes:
        name: The signal, "SIGTERM" or "Ctrl-C".
        code: The exit code that shells give for it.
    """

    name, code = "SIGTERM", EXIT_PREEMPTED


class Interrupted(Preempted):
    """Ctrl-C was pressed, and the state of the last step is saved."""

    name, code = "Ctrl-C", EXIT_INTERRUPTED


class Preemption:
    """Notices SIGTERM, which schedulers send before they stop a machine, and Ctrl-C.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        # Set in a single process only; several processes agree on a step.
        self.noticed: type[Preempted] | None = None
        self._previous: dict[int, Any] = {}
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._notice)

    def reached(self, step: int) -> type[Preempted] | None:
        """The reason to save and stop after this step, or None.

        All processes must call this after every step; all get the same answer.
        """
        if jax.process_count() == 1:
            return self.noticed
        return Preempted if multihost_utils.reached_preemption_sync_point(step) else None

    def close(self) -> None:
        """Restores the previous handlers of the signals."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, signal_number: int, frame: FrameType | None) -> None:
        if signal_number == signal.SIGINT:
            if self.noticed is Interrupted:
                raise KeyboardInterrupt
            print("Ctrl-C: saving after this step; press it again to leave at once", flush=True)
        self.noticed = Interrupted if signal_number == signal.SIGINT else Preempted
