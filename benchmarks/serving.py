"""Measures images per second and latency of `maskrcnn-jax serve`, beside the detector alone.

    python -m benchmarks.serving --weights runs/demo --images photos

The server is a process of its own, and clients are threads here: they share the cores of the
machine. Each client sends one image after the other. The table is Markdown.
"""

import argparse
import contextlib
import http.client
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from maskrcnn_jax.detector import Detector
from maskrcnn_jax.images import decode_image


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="as for `maskrcnn-jax serve`")
    parser.add_argument("--images", required=True, type=Path, help="a folder of JPEG and PNG files")
    parser.add_argument(
        "--clients", default=[1, 32], type=int, nargs="+", help="numbers of clients"
    )
    parser.add_argument("--seconds", default=30.0, type=float, help="for each number")
    parser.add_argument("--batch", default=1, type=int, help="most images in the model at once")
    args = parser.parse_args()
    files = [p for p in sorted(args.images.iterdir()) if p.suffix in (".jpg", ".jpeg", ".png")]
    contents = [path.read_bytes() for path in files]
    print("| | images/s | median | 95 % of answers within |\n|---|---|---|---|")
    _print("the detector alone, in a loop", *_alone(args, contents))
    with _server(args) as port:
        for count in args.clients:
            found = _measure(
                count, args.seconds, lambda i: _post(port, contents[i % len(contents)])
            )
            _print(f"the server, {count} client{'s' * (count > 1)}", *found)


def _alone(args: argparse.Namespace, contents: Sequence[bytes]) -> tuple[float, list[float]]:
    """Decodes and detects in a loop, with masks as run lengths, as the server does."""
    detector = Detector.from_weights(args.weights)
    detector.only_buckets = True
    for bucket in detector.data.test_buckets:
        detector.compile(bucket)
    return _measure(
        1,
        args.seconds,
        lambda i: detector(decode_image(contents[i % len(contents)]), masks="rle"),
    )


def _measure(
    num_clients: int, seconds: float, ask: Callable[[int], object]
) -> tuple[float, list[float]]:
    """Lets clients ask for a while; returns answers per second, and the seconds of each."""
    taken: list[float] = []
    start = time.perf_counter()

    def repeat(client: int) -> None:
        i = client
        while time.perf_counter() < start + seconds:
            before = time.perf_counter()
            ask(i)
            taken.append(time.perf_counter() - before)
            i += num_clients

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(taken) / (time.perf_counter() - start), taken


def _post(port: int, content: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    with contextlib.closing(connection):
        connection.request("POST", "/detect", content)
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"the server answered {response.status}: {response.read()[:200]!r}")
        response.read()


@contextlib.contextmanager
def _server(args: argparse.Namespace) -> Iterator[int]:
    """Starts the command on a free port, and yields the port once it is ready."""
    command = [sys.executable, "-m", "maskrcnn_jax", "serve", "--weights", args.weights]
    command += ["--port", "0", "--batch", str(args.batch), "--timeout", "600", "--queue", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = next((line for line in process.stdout if "is ready" in line), None)
        if ready is None:
            raise OSError(f"the server ended with exit code {process.wait()}")
        try:
            yield int(ready.partition(" ")[0].rpartition(":")[2])
        finally:
            process.terminate()


def _print(name: str, rate: float, taken: Sequence[float]) -> None:
    ordered = sorted(taken)
    late = ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]
    print(
        f"| {name} | {rate:.2f} | {statistics.median(ordered):.2f} s | {late:.2f} s |", flush=True
    )


if __name__ == "__main__":
    main()
