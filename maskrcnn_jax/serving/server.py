"""Runs the application until it is stopped."""

import socket

import uvicorn

from maskrcnn_jax.detector import Detector
from maskrcnn_jax.serving import app
from maskrcnn_jax.serving.uploads import Limits

_SECONDS_TO_STOP = 30  # For requests that are under way when the server is stopped.


def run(listener: socket.socket, detector: Detector, limits: Limits, name: str) -> None:
    """Serves until SIGINT or SIGTERM, and answers the requests that are under way.

    Args:
        listener: A socket that listens.
        detector: As for `app.Service`.
        limits: What is accepted.
        name: The name of the model, for the page.

    Raises:
        KeyboardInterrupt: SIGINT came.
    """
    config = uvicorn.Config(
        app.application(detector, limits, name),
        access_log=False,
        http="h11",
        log_config=None,  # Warnings and errors go to stderr.
        log_level="warning",
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_STOP,
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[listener])
