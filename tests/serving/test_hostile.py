"""The command `serve` with a real model, under 32 clients of which many are hostile."""

import contextlib
import http.client
import io
import json
import random
import socket
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from maskrcnn_jax.config import Config  # noqa: E402
from maskrcnn_jax.data.categories import Categories  # noqa: E402
from maskrcnn_jax.detector import Detector  # noqa: E402
from maskrcnn_jax.weights import saving  # noqa: E402
from tests.serving.test_app import bomb, expected  # noqa: E402

NUM_CLIENTS, NUM_ROUNDS, BATCH_SIZE = 32, 3, 4
MEGABYTE = 2**20
# A request in the queue holds its file. Few images are decoded, of at most 50 megapixels each.
ALLOWED_MEMORY = (48 * 20 + (2 * BATCH_SIZE + 2) * 50 * 3 + 500) * MEGABYTE


@pytest.fixture(scope="module")
def weights(tiny, tmp_path_factory):
    """The weight file of a small model that finds objects in noise."""
    config = Config(model=tiny.model.config, detection=tiny.model.detection)
    config.data.test_short_side, config.data.test_max_long_side = 128, 192
    config.data.test_buckets = ((128, 192), (192, 128))
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    saving.save(path, config, tiny.variables, Categories((1, 2, 3), ("a", "b", "c")))
    return path


@contextlib.contextmanager
def serving(weights):
    """Starts the command; yields the process and its port."""
    command = [sys.executable, "-m", "maskrcnn_jax", "serve", "--weights", str(weights)]
    command += ["--port", "0", "--batch", str(BATCH_SIZE), "--queue", "48"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stdout if "is ready" in line)
            yield process, int(line.partition(" ")[0].rpartition(":")[2])
        finally:
            process.terminate()


def photograph(seed):
    """A picture of blocks of colour, of a size of its own."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(100, 700, 2)
    blocks = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
    picture.save(file, "jpeg" if seed % 2 else "png")
    return file.getvalue()


def black(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "png")
    return file.getvalue()


def hostile():
    """The content of each attack, and the statuses that answer it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(50 * MEGABYTE))
    frames = io.BytesIO()
    pages = [Image.new("L", (8, 8), i % 256) for i in range(500)]
    pages[0].save(frames, "gif", save_all=True, append_images=pages[1:])
    photo = photograph(1)
    return {
        "a bomb of 100 megapixels": (black(10_000, 10_000), {413}),
        "a bomb of 4 gigapixels": (bomb(65_000, 65_000), {413}),
        "49 megapixels of black": (black(7_000, 7_000), {200}),
        "one row of pixels": (black(200_000, 1), {200}),
        "a cut photograph": (photo[: len(photo) // 2], {422}),
        "100 MB": (bytes(100_000_000), {413}),
        "a photograph with 100 MB behind it": (photo + bytes(100_000_000), {413}),
        "noise": (random.Random(0).randbytes(1_000_000), {415}),
        "a zip archive": (archive.getvalue(), {415}),
        "an animation": (frames.getvalue(), {200}),
        "text": (b'{"image": "photo.jpg"}', {415}),
        "a drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {415}),
        "nothing": (b"", {400}),
    }


def post(port, content):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", "/detect", content)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def leave_in_the_middle(port, content):
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n")
        connection.sendall(content[:1000])


def peak_memory(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


@pytest.mark.slow
def test_good_answers_among_hostile_requests(weights):
    detector = Detector.from_weights(weights)
    detector.batch_size, detector.only_buckets = BATCH_SIZE, True
    photos = [photograph(seed) for seed in range(8)]
    answers = [expected(detector, photo) for photo in photos]
    assert sum(len(answer["detections"]) for answer in answers) > 20
    attacks, wrong, counted = hostile(), [], Counter()

    def use(client):
        draw = random.Random(client)
        for _ in range(NUM_ROUNDS):
            i = draw.randrange(len(photos))
            status, answer = post(port, photos[i])
            counted["good", status] += 1
            if status != 503 and (status, answer) != (200, answers[i]):
                wrong.append((i, status, answer))
            name = draw.choice(sorted(attacks))
            content, statuses = attacks[name]
            status, _ = post(port, content)
            counted[name, status] += 1
            if status not in statuses | {503}:
                wrong.append((name, status))
            if draw.random() < 0.2:
                leave_in_the_middle(port, photos[i])

    with serving(weights) as (process, port):
        before = peak_memory(process)
        threads = [threading.Thread(target=use, args=(i,)) for i in range(NUM_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = peak_memory(process)
        assert post(port, photos[0]) == (200, answers[0])
        assert process.poll() is None
    print(f"memory: {before / MEGABYTE:.0f} MiB before, {after / MEGABYTE:.0f} MiB after", counted)
    assert wrong == []
    assert sum(counted.values()) == 2 * NUM_CLIENTS * NUM_ROUNDS
    assert counted["good", 200] > NUM_CLIENTS * NUM_ROUNDS / 2
    assert after - before < ALLOWED_MEMORY
