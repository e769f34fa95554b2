"""The command `serve`: its port, its messages and its end."""

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from maskrcnn_jax.cli import serve  # noqa: E402
from maskrcnn_jax.cli.main import main  # noqa: E402

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def is_taken(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_it_serves_until_ctrl_c(run_directory, tmp_path, capsys):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    port, answers = free_port(), []

    def use():
        while not is_taken(port):
            time.sleep(0.01)
        address = f"http://127.0.0.1:{port}"
        content = (tmp_path / "a.png").read_bytes()
        with OPENER.open(f"{address}/detect", content, timeout=60) as response:
            answers.append(json.load(response))
        with OPENER.open(f"{address}/about", timeout=60) as response:
            answers.append(json.load(response))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=use)
    thread.start()
    command = ["serve", "--weights", str(run_directory), "--port", str(port), "--batch", "2"]
    assert main([*command, "--queue", "3", "--timeout", "50"]) == 0
    thread.join()
    found, about = answers
    assert [each["name"] for each in found["detections"]] == ["disc"]
    assert found["detections"][0]["box"] == [0, 0, 32, 32] and found["size"] == [64, 64]
    assert about["name"] == "run" and about["batch_size"] == 2
    assert about["limits"]["num_requests"] == 3 and about["limits"]["seconds"] == 50
    printed = capsys.readouterr().out
    assert f"http://127.0.0.1:{port} is ready; Ctrl-C stops it\nstopped\n" in printed
    with socket.create_server(("127.0.0.1", port)):
        pass  # The port is free again.


def test_a_taken_port_is_one_message_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(serve, "_load", lambda args: 1 / 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert main(["serve", "--weights", "w.pth", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"port {port}: Address already in use" in error
    assert "give another --port" in error


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--port", "65536"], "from 0 to 65535"),
        (["--port", "-1"], "from 0 to 65535"),
        (["--batch", "0"], "from 1 to 1024"),
        (["--timeout", "0"], "at least 1"),
        (["--artifact", "a.npz"], "not allowed with"),
    ],
)
def test_wrong_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--weights", "w.pth", *arguments])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--weights", "absent.pth"], "absent.pth"),
        (["--artifact", "absent.npz"], "absent.npz"),
        (["--artifact", "a.npz", "--batch", "2"], "give --batch to `export`"),
        (["--weights", "w.pth", "--host", "203.0.113.9"], "cannot listen at 203.0.113.9"),
        (["--weights", "w.pth", "--host", "no such host"], "cannot listen at no such host"),
    ],
)
def test_mistakes_are_one_message(arguments, words, capsys):
    assert main(["serve", "--port", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_without_its_packages_one_message_says_how_to_install_them(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("maskrcnn_jax.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("maskrcnn_jax.serving", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--weights", "w.pth"]) == 2
    assert "`pip install 'maskrcnn-jax[serve]'`" in capsys.readouterr().err
