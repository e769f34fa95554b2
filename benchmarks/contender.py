"""Programs in separate processes that take turns, so that none shares a core."""

import gc
import multiprocessing
import pickle
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MAX_REPEATS = 50  # The most repetitions of a short run in a round.

Run = Callable[[], Any]  # Returns NumPy arrays.


class Contender:
    """Prepares a program in a new process, and times its runs.

    Args:
        prepare: A module-level function that loads the inputs and returns the program.
        arguments: The arguments of ``prepare``.

    Raises:
        RuntimeError: ``prepare`` or a run failed. The process has printed the reason.
    """

    def __init__(self, prepare: Callable[..., Run], *arguments: Any) -> None:
        self._connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=_serve, args=(other, prepare, arguments), daemon=True
        )
        self._process.start()
        other.close()
        self._answer()

    def run(self) -> float:
        """Runs once; returns the seconds."""
        return self._ask("run")

    def result(self) -> Any:
        """Takes the result of the last run out of the process.

        Arrays are sent without copies, since they may have gigabytes.
        """
        pickled, num_buffers = self._ask("result")
        buffers = [self._connection.recv_bytes() for _ in range(num_buffers)]
        return pickle.loads(pickled, buffers=buffers)

    def memory(self) -> int:
        """The peak memory of the process in bytes, less the memory held after ``prepare``."""
        return self._ask("memory")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _ask(self, request: str) -> Any:
        self._connection.send(request)
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError(
                f"a contender ended with exit code {self._process.exitcode}"
            ) from None


def take_turns(
    contenders: dict[str, Contender], rounds: int, min_seconds: float = 0.2
) -> dict[str, list[float]]:
    """Times the contenders in turns; returns the seconds of one run per contender and round.

    A round repeats short runs and takes the median. All contenders must have run before, so that
    compilation does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times = [contender.run()]
            while len(times) < MAX_REPEATS and sum(times) < min_seconds:
                times.append(contender.run())
            seconds[name].append(statistics.median(times))
    return seconds


def _serve(connection: Connection, prepare: Callable[..., Run], arguments: tuple[Any, ...]) -> None:
    run = prepare(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Resets the peak memory.
    held = _status("VmRSS")
    connection.send("ready")
    result = None
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        if request == "run":
            result = None
            start = time.perf_counter()
            result = run()
            connection.send(time.perf_counter() - start)
        elif request == "result":
            buffers: list[pickle.PickleBuffer] = []
            pickled = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
            connection.send((pickled, len(buffers)))
            for buffer in buffers:
                connection.send_bytes(buffer.raw())
            result = None
            buffers.clear()
        elif request == "memory":
            connection.send(_status("VmHWM") - held)


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
