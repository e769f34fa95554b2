"""Downloads from a local server with faults. File names contain the first digits of the sha256."""

import contextlib
import hashlib
import re
import threading
import time
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.weights import download
from maskrcnn_jax.xla import cache

CONTENT = np.random.default_rng(0).bytes(300_000)
NAME = f"resnet0-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
HALF = len(CONTENT) // 2


class Server(ThreadingHTTPServer):
    """Serves CONTENT under every address, with a `fault`; `ranges` records the requested ranges."""

    daemon_threads = False  # Closing waits for all requests, so that no socket outlives a test.

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = ""
        self.content = CONTENT
        self.ranges = []  # The Range header of each request, or None.


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers["Range"])
        if server.fault in ("404", "500"):
            return self.answer(int(server.fault), b"<html>no</html>")
        if server.fault == "redirect" and "moved" not in self.path:
            return self.answer(302, b"", Location=f"/moved{self.path}")
        if server.fault.startswith("to "):
            return self.answer(302, b"", Location=server.fault.removeprefix("to "))
        if server.fault == "slow":
            time.sleep(0.3)
        if server.fault == "no range" or self.headers["Range"] is None:
            return self.answer(200, server.content)
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
        size = len(server.content)
        if start >= size:
            return self.answer(416, b"", content_range=f"bytes */{size}")
        if server.fault == "other range":
            start = 0
        self.answer(206, server.content[start:], content_range=f"bytes {start}-{size - 1}/{size}")

    def answer(self, status: int, body: bytes, content_range: str = "", **headers: str) -> None:
        self.send_response(status)
        if self.server.fault not in ("no length", "broken chunks"):
            self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.fault == "broken chunks":
            self.send_header("Transfer-Encoding", "chunked")
            # The chunk of size 0 at the end of the body is missing.
            body = b"%x\r\n%b\r\n" % (HALF, body[:HALF])
        self.end_headers()
        self.wfile.write(body[:HALF] if self.server.fault in ("cut", "stalled") else body)
        if self.server.fault == "stalled":
            time.sleep(0.3)

    def log_message(self, *args: object) -> None:
        pass  # Print nothing: the tests read stderr.


@contextlib.contextmanager
def running_server():
    with Server() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(monkeypatch, tmp_path):
    with running_server() as server:
        monkeypatch.setenv(
            "MASKRCNN_JAX_DOWNLOAD_URL", f"http://127.0.0.1:{server.server_port}/models/"
        )
        monkeypatch.setenv("MASKRCNN_JAX_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        yield server


def cached() -> dict[str, bytes]:
    """Returns the files in the cache, without the empty lock file."""
    return {
        path.name: path.read_bytes() for path in cache.folder().iterdir() if path.suffix != ".lock"
    }


def leave_part(content: bytes) -> None:
    cache.folder().mkdir()
    (cache.folder() / f"{NAME}.part").write_bytes(content)


def test_names_of_detectors_and_backbones():
    assert set(download.DETECTORS) == set(presets.PRESETS)
    for model, name in download.DETECTORS.items():
        assert re.fullmatch(rf"{model}_coco-[0-9a-f]{{8}}\.pth", name)
    versions = {
        **dict.fromkeys(("resnet18", "resnet34", "resnext101_64x4d"), 1),
        **{f"convnext_{size}": 1 for size in ("tiny", "small", "base", "large")},
        **dict.fromkeys(("resnet50", "resnet101", "resnet152"), 2),
        **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d"), 2),
    }
    assert set(download.BACKBONES) == {
        (name, f"IMAGENET1K_V{i + 1}") for name, count in versions.items() for i in range(count)
    }
    for (network, _), name in download.BACKBONES.items():
        assert re.fullmatch(rf"{network}-[0-9a-f]{{8}}\.pth", name)
    assert len(set(download.BACKBONES.values())) == len(download.BACKBONES)


def test_downloads_once_and_works_offline_afterwards(server, monkeypatch):
    path = download.fetch(NAME)
    assert path == cache.folder() / NAME and cached() == {NAME: CONTENT}
    server.fault = "500"
    assert download.fetch(NAME) == path
    monkeypatch.setenv("MASKRCNN_JAX_DOWNLOAD_URL", "http://127.0.0.1:1")
    assert download.fetch(NAME) == path
    assert server.ranges == [None]


@pytest.mark.parametrize("fault", ["redirect", "no length"])
def test_other_ways_to_answer(server, fault):
    server.fault = fault
    assert download.fetch(NAME).read_bytes() == CONTENT


def test_a_base_address_without_a_slash(server, monkeypatch):
    monkeypatch.setenv("MASKRCNN_JAX_DOWNLOAD_URL", f"http://127.0.0.1:{server.server_port}/models")
    assert download.fetch(NAME).read_bytes() == CONTENT


def test_progress_without_a_terminal_is_one_line_that_names_the_file(server, capfd):
    download.fetch(NAME)
    out, err = capfd.readouterr()
    assert out == "" and NAME in err and "300.0/300.0 kB" in err and err.strip().count("\n") == 0


def test_progress_counts_what_was_there_before(server, capfd):
    leave_part(CONTENT[:HALF])
    download.fetch(NAME)
    assert "300.0/300.0 kB" in capfd.readouterr().err


def test_wrong_content_is_refused_and_the_next_call_starts_anew(server):
    server.content = CONTENT[:-1] + b"?"
    digest = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(OSError, match=rf"127\.0\.0\.1.*{NAME}.*{digest}, not {NAME[8:16]}"):
        download.fetch(NAME)
    assert cached() == {}
    server.content = CONTENT
    assert download.fetch(NAME).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_an_interrupted_download_asks_for_the_rest_only(server):
    server.fault = "cut"
    with pytest.raises(
        OSError, match=f"ended after {HALF} of {len(CONTENT)} bytes.*keeps {HALF} bytes.*resumes"
    ):
        download.fetch(NAME)
    assert cached() == {f"{NAME}.part": CONTENT[:HALF]}
    server.fault = ""
    assert download.fetch(NAME).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"] and cached() == {NAME: CONTENT}


@pytest.mark.parametrize(
    ("fault", "reason"), [("stalled", "timed out"), ("broken chunks", "IncompleteRead")]
)
def test_a_connection_that_fails_keeps_the_blocks_before(server, monkeypatch, fault, reason):
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    server.fault = fault
    with pytest.raises(OSError, match=f"{NAME}: .*{reason}.*resumes"):
        download.fetch(NAME)
    part = cached()[f"{NAME}.part"]
    assert 0 < len(part) <= HALF and CONTENT.startswith(part)
    server.fault = ""
    assert download.fetch(NAME).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(part)}-"]


def test_a_download_interrupted_twice_keeps_both_pieces(server):
    leave_part(CONTENT[:1000])
    server.fault = "cut"
    with pytest.raises(OSError, match=f"ended after {1000 + HALF} of {len(CONTENT)} bytes"):
        download.fetch(NAME)
    server.fault = ""
    assert download.fetch(NAME).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", f"bytes={1000 + HALF}-"]


@pytest.mark.parametrize(("fault", "num_requests"), [("no range", 1), ("other range", 2)])
def test_a_server_without_the_range_sends_the_whole_file(server, fault, num_requests):
    leave_part(CONTENT[:1000])
    server.fault = fault
    assert download.fetch(NAME).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None][:num_requests]


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"], ids=["complete", "too long"])
def test_a_part_with_nothing_missing_is_downloaded_anew(server, part):
    leave_part(part)
    assert download.fetch(NAME).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(part)}-", None] and cached() == {NAME: CONTENT}


def test_a_damaged_part_is_deleted_after_the_check(server):
    leave_part(bytes(1000))
    with pytest.raises(OSError, match="sha256"):
        download.fetch(NAME)
    assert cached() == {}


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://localhost:1/x", "data:,x", "//other/x"],
)
def test_a_redirect_to_another_scheme_or_host_is_refused(server, address):
    server.fault = f"to {address}"
    with pytest.raises(OSError, match=f"redirects? to .*{address}|not allowed"):
        download.fetch(NAME)
    assert cached() == {} and len(server.ranges) == 1


def test_redirects_without_end(server):
    server.fault = f"to http://127.0.0.1:{server.server_port}/again"
    with pytest.raises(OSError, match="infinite loop"):
        download.fetch(NAME)
    assert len(server.ranges) < 10


@pytest.mark.parametrize(
    "old, new, is_followed",
    [
        ("https://a.org/x", "https://b.org/x", True),
        ("https://a.org/x", "http://a.org/x", False),
        ("http://a.org/x", "https://b.org/x", True),
        ("http://a.org/x", "http://a.org:80/y", True),
        ("http://a.org/x", "http://a.org.evil/y", False),
    ],
)
def test_no_redirect_weakens_the_connection(old, new, is_followed):
    request = urllib.request.Request(old)
    redirect = download._Redirects().redirect_request
    if is_followed:
        assert redirect(request, None, 302, "Found", {}, new).full_url == new
    else:
        with pytest.raises(OSError, match="not followed"):
            redirect(request, None, 302, "Found", {}, new)


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_the_address_is_one_of_the_web(server, monkeypatch, tmp_path, scheme):
    (tmp_path / NAME).write_bytes(CONTENT)
    monkeypatch.setenv("MASKRCNN_JAX_DOWNLOAD_URL", f"{scheme}://{tmp_path}")
    with pytest.raises(OSError, match="has to begin with https"):
        download.fetch(NAME)


@pytest.mark.parametrize("fault", ["", "no length"])
def test_a_server_that_sends_without_end_is_left(server, monkeypatch, fault):
    monkeypatch.setattr(download, "_MAX_BYTES", HALF)
    server.fault = fault
    with pytest.raises(OSError, match=f"more than {HALF} bytes"):
        download.fetch(NAME)
    assert len(cached()[f"{NAME}.part"]) <= HALF


@pytest.mark.parametrize("fault", ["404", "500"])
def test_an_error_of_the_server_names_the_address_and_the_way_out(server, fault):
    server.fault = fault
    path = re.escape(str(cache.folder() / NAME))
    with pytest.raises(
        OSError, match=f"127.*/models/{NAME}: HTTP Error {fault}.*by hand to {path}"
    ):
        download.fetch(NAME)
    assert cached() == {}


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "no-address"])
def test_an_address_that_does_not_answer(server, monkeypatch, address):
    monkeypatch.setenv("MASKRCNN_JAX_DOWNLOAD_URL", address)
    leave_part(CONTENT[:1000])
    with pytest.raises(OSError, match=f"cannot download {address}/{NAME}: .*keeps 1000 bytes"):
        download.fetch(NAME)
    assert cached() == {f"{NAME}.part": CONTENT[:1000]}


def test_a_folder_that_cannot_be_made(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MASKRCNN_JAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="cannot download .*MASKRCNN_JAX_CACHE"):
        download.fetch(NAME)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the disk without space")
def test_a_full_disk(server):
    cache.folder().mkdir()
    (cache.folder() / f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"{NAME}: .*No space left on device"):
        download.fetch(NAME)


def test_two_at_once_download_one_file(server, capfd):
    # Threads replace processes here: a lock belongs to an open file, and each thread opens its own.
    server.fault = "slow"
    threads = [threading.Thread(target=download.fetch, args=(NAME,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.ranges == [None] and cached() == {NAME: CONTENT}
    assert f"waiting for another process that downloads {NAME}" in capfd.readouterr().err


def test_a_damaged_file_in_the_cache_is_refused(server):
    path = download.fetch(NAME)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(OSError, match=f"{NAME} is damaged.*{NAME[8:16]}"):
        download.fetch(NAME)


@pytest.mark.parametrize(
    "name", ["resnet50.pth", "../resnet50-0676ba61.pth", "resnet50-0676ba6.pth", ""]
)
def test_a_name_without_a_digest_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        download.fetch(name)
