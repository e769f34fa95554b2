"""`maskrcnn-jax serve`: a page to try a model in the browser, and an endpoint with JSON."""

import argparse
import contextlib
import errno
import socket
from pathlib import Path

from maskrcnn_jax.cli import progress
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.xla import cache, compiler

_BATCH_SIZE = 4  # On an accelerator, which several images keep busy.


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C; returns 0. The port is taken before the model is loaded."""
    try:
        from maskrcnn_jax.serving import server, uploads
    except ImportError as error:  # Its packages are an extra.
        raise ValueError(str(error)) from error
    cache.keep_compiled_programs()
    with _listen(args.host, args.port) as listener:
        detector = _load(args)
        _compile(detector)
        limits = uploads.Limits(
            args.max_megabytes * 2**20, args.max_megapixels * 10**6, args.timeout, args.queue
        )
        print(f"{_address(listener)} is ready; Ctrl-C stops it", flush=True)
        # It answers what is under way, and then raises where Ctrl-C was not ignored at the start.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(listener, detector, limits, Path(args.weights or args.artifact).name)
        print("stopped")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Takes a port. Raises OSError, which names it, if that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        advice = "give another --port" if error.errno == errno.EADDRINUSE else "see --host, --port"
        raise OSError(
            f"cannot listen at {host}, port {port}: {error.strerror}; {advice}"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _load(args: argparse.Namespace) -> Detector:
    """Loads the detector. It makes images smaller that fit no bucket: no request compiles."""
    if args.artifact is not None:
        if args.batch is not None:
            raise ValueError("the file of --artifact has its own batch: give --batch to `export`")
        return Detector.from_artifact(args.artifact)
    from maskrcnn_jax.weights import loading  # Artifacts need no flax.

    loaded = loading.load(args.weights)
    print(loaded.report)
    detector = Detector.from_loaded(loaded, consume=True)
    detector.only_buckets = True
    detector.batch_size = args.batch or (1 if detector.model.run.small_on_cpu else _BATCH_SIZE)
    return detector


def _compile(detector: Detector) -> None:
    """Compiles the model for all buckets, so that no request has to wait for it."""
    if detector.model.run.small_on_cpu:
        compiler.return_memory_after_compiling()
    buckets = detector.data.test_buckets
    with progress.images("compile", len(buckets), "sizes") as advance:
        for bucket in buckets:
            detector.compile(bucket)
            advance(1)
