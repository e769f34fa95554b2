"""A program in a process of its own, which runs when it is told to: two of them take turns and never share a core."""

import gc
import multiprocessing
import pickle
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MAX_REPEATS = 50  # Of a short run within a round.

Run = Callable[[], Any]  # Does the work, and returns NumPy arrays.


class Contender:
    """Prepares a program in a new process, and times its runs.

    Args:
        prepare: A function of a module, which loads what the program needs and returns the program.
        arguments: Of ``prepare``.

    Raises:
        RuntimeError: ``prepare`` or a run failed; the process has printed why.
    """

    def __init__(self, prepare: Callable[..., Run], *arguments: Any) -> None:
        self._connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(other, prepare, arguments), daemon=True)
        self._process.start()
        other.close()
        self._answer()

    def run(self) -> float:
        """Seconds that one run takes."""
        return self._ask("run")

    def result(self) -> Any:
        """What the last run returned; the process forgets it. Arrays travel without copies: they may be gigabytes."""
        pickled, num_buffers = self._ask("result")
        return pickle.loads(pickled, buffers=[self._connection.recv_bytes() for _ in range(num_buffers)])

    def memory(self) -> int:
        """Bytes that the process held at most since ``prepare`` returned, beyond what it held then."""
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
            raise RuntimeError(f"a contender ended with exit code {self._process.exitcode}") from None


def take_turns(contenders: dict[str, Contender], rounds: int, min_seconds: float = 0.2) -> dict[str, list[float]]:
    """Seconds of one run, for each contender and round; short runs are repeated within a round, and the median taken.

    Each has run before, so that compiling is not counted.
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
    Path("/proc/self/clear_refs").write_text("5")  # The peak counts from here.
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
            connection.send((pickle.dumps(result, protocol=5, buffer_callback=buffers.append), len(buffers)))
            for buffer in buffers:
                connection.send_bytes(buffer.raw())
            result = None
            buffers.clear()
        elif request == "memory":
            connection.send(_status("VmHWM") - held)


def _status(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
