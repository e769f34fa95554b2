"""Requests to the server: right answers, and clear ones to mistakes."""

import contextlib
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from maskrcnn_jax import images  # noqa: E402
from tests.serving.stand_in import encoded, png, running, stand_in_detector  # noqa: E402


@pytest.fixture(scope="module")
def server():
    with running(stand_in_detector()) as server:
        yield server


def wait_until(is_true):
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.002)


def expected(detector, content, *arguments):
    """The answer that the detector alone gives."""
    image = images.decode_image(content)
    (found,) = detector(image, *arguments, masks="rle")
    columns = zip(*(found[name] for name in ("boxes", "labels", "scores", "masks")), strict=True)
    categories = detector.categories
    detections = [
        {
            "box": [float(side) for side in box],
            "label": int(label),
            "category_id": categories.category_id(int(label)),
            "name": categories.name(int(label)),
            "score": float(score),
            "mask": mask,
        }
        for box, label, score, mask in columns
    ]
    return {"size": list(image.shape[:2]), "detections": detections}


@pytest.mark.parametrize(
    "query, arguments",
    [
        ("", ()),
        ("?threshold=0", (0,)),
        ("?threshold=0.65", (0.65,)),
        ("?top_k=1", (None, 1)),
        ("?threshold=1", (1,)),
    ],
)
def test_answers_are_those_of_the_detector(server, query, arguments):
    for content in (png(), png(200, 120, (30, 50, 100, 180)), png(50, 400, (0, 0, 300, 50))):
        answer = server.send(content, query)
        assert answer.status == 200
        assert answer.content == expected(server.detector, content, *arguments)
    assert [len(answer.content["detections"])] == [
        {"?threshold=0": 3, "": 2}.get(query, query != "?threshold=1")
    ]


def test_masks_may_be_left_out(server):
    found = server.send(png(), "?masks=none").content["detections"]
    assert len(found) == 2 and not any("mask" in each for each in found)


def bomb(width, height):
    """The header of a PNG of a few bytes that claims many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


NOISE = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
MISTAKES = {
    "no body": (b"", {}, 400, "empty"),
    "no image": (b"hello", {}, 415, "text"),
    "a zip archive": (b"PK\3\4" + bytes(100), {}, 415, "zip"),
    "PostScript": (b"%!PS-Adobe", {}, 415, "PostScript"),
    "cut off": (NOISE[: len(NOISE) // 2], {}, 422, "truncated"),
    "many pixels": (bomb(60_000, 60_000), {}, 413, "pixels"),
    "more pixels than allowed": (bomb(100, 101), {}, 413, "100x101 pixels, and 10,000"),
    "few of the pixels": (bomb(99, 99), {}, 422, "cannot read"),
    "many bytes": (bytes(100_000), {}, 413, "100,000 bytes, and 50,000"),
    "many bytes of unknown number": (iter([bytes(30_000)] * 4), {}, 413, "more bytes"),
    "a threshold": (png(), {"query": "?threshold=high"}, 400, "high"),
    "no number": (png(), {"query": "?threshold=nan"}, 400, "NaN"),
    "a count": (png(), {"query": "?top_k=4"}, 400, "from 1 to 3"),
    "masks": (png(), {"query": "?masks=png"}, 400, "rle or none"),
    "an option": (png(), {"query": "?treshold=0.5"}, 400, "treshold"),
    "another page": (png(), {"sec_fetch_site": "cross-site"}, 403, "other sites"),
    "another method": (None, {"method": "GET"}, 405, "Method"),
    "another path": (png(), {"path": "/detekt"}, 404, "Not Found"),
}


@pytest.fixture(scope="module")
def small():
    with running(stand_in_detector(), num_bytes=50_000, num_pixels=10_000) as server:
        yield server


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(small, mistake):
    body, options, status, words = MISTAKES[mistake]
    answer = small.send(body, **options)
    assert answer.status == status and words in answer.content["error"]
    assert small.send(png()).status == 200


def test_a_client_that_asks_first_need_not_send_a_large_file(small):
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as connection:
        head = "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_concurrent_requests_share_batches_of_one_bucket():
    detector = stand_in_detector(batch_size=3)
    model = detector.model
    tall, wide = png(90, 60, (6, 9, 30, 45)), png()
    with running(detector) as server, ThreadPoolExecutor(8) as pool:
        model.gate.clear()
        first = pool.submit(server.send, wide, "?threshold=0.65")
        wait_until(lambda: model.batches == [1])
        others = []
        for number, content in enumerate([tall, wide, wide, tall, wide, wide], start=2):
            others.append(pool.submit(server.send, content, "?threshold=0"))
            wait_until(
                lambda n=number: server.send(path="/healthz", method="GET").content["requests"] == n
            )
        # Let the images be decoded, and queue up.
        time.sleep(0.2)
        model.gate.set()
        answers = [each.result() for each in [first, *others]]
        assert model.batches == [1, 2, 3, 1]
        for content, answer in zip(
            [wide, tall, wide, wide, tall, wide, wide], answers, strict=True
        ):
            lowest = 0.65 if answer is answers[0] else 0
            assert answer.content == expected(detector, content, lowest)


def test_each_request_of_a_batch_has_its_own_threshold():
    detector = stand_in_detector(batch_size=2)
    with running(detector) as server, ThreadPoolExecutor(3) as pool:
        detector.model.gate.clear()
        pool.submit(server.send, png())
        wait_until(lambda: detector.model.batches == [1])
        thresholds = (0, 0.65)
        answers = [pool.submit(server.send, png(), f"?threshold={x}") for x in thresholds]
        wait_until(lambda: server.send(path="/healthz", method="GET").content["requests"] == 3)
        time.sleep(0.1)
        detector.model.gate.set()
        for threshold, answer in zip(thresholds, answers, strict=True):
            assert answer.result().content == expected(detector, png(), threshold)
        assert detector.model.batches[:2] == [1, 2]


def test_a_full_queue_tells_when_to_come_again():
    detector = stand_in_detector()
    with running(detector, num_requests=2) as server, ThreadPoolExecutor(2) as pool:
        detector.model.gate.clear()
        waiting = [pool.submit(server.send, png()) for _ in range(2)]
        wait_until(lambda: server.send(path="/healthz", method="GET").content["requests"] == 2)
        refused = server.send(png())
        assert refused.status == 503 and int(refused.headers["Retry-After"]) > 0
        detector.model.gate.set()
        assert [each.result().status for each in waiting] == [200, 200]
        assert server.send(png()).status == 200


def test_a_slow_model_and_a_slow_upload_end_in_time():
    detector = stand_in_detector()
    with running(detector, seconds=0.2) as server:
        detector.model.gate.clear()
        assert server.send(png()).status == 504
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc")
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        detector.model.gate.set()
        assert server.send(png()).status == 200


def test_who_left_costs_no_time_of_the_model():
    detector = stand_in_detector()
    with running(detector, seconds=5) as server, ThreadPoolExecutor(1) as pool:
        detector.model.gate.clear()
        blocking = pool.submit(server.send, png())
        wait_until(lambda: detector.model.batches == [1])
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                connection = socket.create_connection(("127.0.0.1", server.port))
                stack.enter_context(connection)
                head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png())}\r\n\r\n"
                connection.sendall(head.encode() + png())
            wait_until(lambda: server.send(path="/healthz", method="GET").content["requests"] == 6)
        detector.model.gate.set()
        assert blocking.result().status == 200 and server.send(png()).status == 200
        # One of the five may be in the model's queue already when it leaves.
        assert 2 <= len(detector.model.batches) <= 4


def test_an_error_of_the_model_is_that_of_its_requests(monkeypatch):
    detector = stand_in_detector()
    with running(detector) as server:
        monkeypatch.setattr(detector, "_apply", lambda *_: 1 / 0)
        answer = server.send(png())
        assert answer.status == 500 and "failed" in answer.content["error"]
        monkeypatch.setattr(detector, "_apply", detector.model.apply)
        assert server.send(png()).status == 200


def test_the_page_allows_scripts_of_this_server_only(server):
    for path in ("/", "/page.css", "/masks.js", "/page.js"):
        answer = server.send(path=path, method="GET")
        assert answer.status == 200
        assert "default-src 'none'; script-src 'self'" in answer.headers["Content-Security-Policy"]
    about = server.send(path="/about", method="GET").content
    assert about["name"] == "a model" and about["categories"][1] == {"id": 9, "name": "<b>dog"}


def test_the_server_ends_with_its_requests_answered():
    detector = stand_in_detector()
    with ThreadPoolExecutor(1) as pool:
        with running(detector) as server:
            detector.model.gate.clear()
            waiting = pool.submit(server.send, png())
            wait_until(lambda: detector.model.batches == [1])
        assert waiting.result().status == 200
