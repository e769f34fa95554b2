"""Runs the Python code of `docs/deploy.md` with a stand-in for the released model."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.artifacts import export
from maskrcnn_jax.detector import Detector
from tests import markdown
from tests.artifacts.test_export import red_detector, red_image

PAGE = markdown.ROOT / "docs" / "deploy.md"
BOX = [60, 90, 300, 240]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    Image.fromarray(red_image(480, 640, BOX)).save(tmp_path / "photo.jpg", quality=100)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python_blocks():
    blocks = [
        block.code for block in markdown.blocks(PAGE.read_text()) if block.language == "python"
    ]
    assert len(blocks) == 3
    return blocks


def test_exporting_and_calling_with_and_without_this_package(folder, monkeypatch):
    detector = red_detector()
    detector.data.test_short_side, detector.data.test_max_long_side = 800, 1333
    monkeypatch.setattr(Detector, "from_weights", lambda weights: detector)
    exporting, _, calling = python_blocks()
    names: dict = {}
    exec(compile(exporting, str(PAGE), "exec"), names)
    np.testing.assert_allclose(names["prediction"]["boxes"], [BOX], atol=1)
    names = {}
    exec(compile(calling, str(PAGE), "exec"), names)
    np.testing.assert_allclose(names["boxes"] * 0.6, [BOX], atol=1)


def test_the_server(folder):
    export.export(red_detector(), folder / "detector.npz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = python_blocks()[1].replace("8000", str(port))
    assert (
        len([line for line in code.splitlines() if line.strip()]) <= 11
        and max(map(len, code.splitlines())) <= 120
    )
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {"XLA_FLAGS": ""}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as server:
        try:
            answer = json.loads(post(port, (folder / "photo.jpg").read_bytes(), server))
        finally:
            server.kill()
    np.testing.assert_allclose(answer["boxes"], [BOX], atol=8)  # Small images give coarse boxes.
    assert (
        answer["names"] == ["dog"]
        and answer["labels"] == [2]
        and answer["masks"][0]["size"] == [480, 640]
    )


def post(port, content, server):
    """Returns the answer of the server, after waiting for its start."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with opener.open(f"http://127.0.0.1:{port}", content, timeout=120) as response:
                return response.read()
        except urllib.error.URLError:  # The server is not listening yet.
            time.sleep(0.1)
    raise AssertionError(
        f"the server does not answer: {server.stderr.read() if server.poll() is not None else ''}"
    )
