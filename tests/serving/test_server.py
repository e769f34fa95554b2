"""The server process: it listens where it was told, and ends with the requests answered."""

import os
import signal
import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from maskrcnn_jax.serving import server  # noqa: E402
from maskrcnn_jax.serving.uploads import Limits  # noqa: E402
from tests.serving.stand_in import Server, png, stand_in_detector  # noqa: E402


@pytest.fixture
def ctrl_c():
    """Lets Ctrl-C interrupt: a shell may have started the tests without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_server_after_its_requests(ctrl_c):
    detector = stand_in_detector()
    answers = []

    def use():
        try:
            answers.append(Server(port, detector).send(png()))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = threading.Thread(target=use)
        client.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            server.run(listener, detector, Limits(), "a model")
        client.join()
    (answer,) = answers
    assert answer.status == 200 and len(answer.content["detections"]) == 2
    assert "server" not in answer.headers  # Nobody needs to know the version.
    assert time.monotonic() - started < 20
