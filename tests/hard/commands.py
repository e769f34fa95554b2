"""Interrupted commands leave nothing half-written under a final name."""

import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from PIL import Image

from maskrcnn_jax.artifacts import artifact
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import coco_instances
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.variables import example_inputs
from maskrcnn_jax.weights import files, saving
from tests import train_process
from tests.hard.data import write_images
from tests.hard.runs import finish, wait_for, whole
from tests.weights.test_download import running_server

NUM_STOPS = 6  # Of each command: a kill and a Ctrl-C in turn.


def stopped(
    begin: Callable[[], Any],
    is_writing: Callable[[], bool],
    check: Callable[[], None],
    *,
    seed: int,
    code: int = 130,
) -> str:
    """Interrupts a command while it writes, checks its files, and lets it end at last.

    Args:
        begin: Starts the command.
        is_writing: Whether an unfinished file of the command exists.
        check: Raises AssertionError or an error of reading if a final file is not whole.
        seed: Of the moments.
        code: The exit code after Ctrl-C.
    """
    moments, hits = random.Random(seed), 0
    for i in range(NUM_STOPS):
        process = begin()
        if i % 3 == 2:
            time.sleep(moments.uniform(2, 6))  # Until then Python loads the command.
        else:
            time.sleep(0.5)  # Python begins; an unfinished file may be that of a killed command.
            wait_for(is_writing, process)
            time.sleep(moments.choice([0, 0.002, 0.01, 0.03]))
        hits += is_writing()
        process.send_signal(signal.SIGKILL if i % 2 else signal.SIGINT)
        _, errors = process.communicate()
        if i % 2 == 0:
            # The system itself ends a process that still starts, or has ended. In its first moments
            # Python shows where it was.
            ended = process.returncode
            assert ended in (0, code, -signal.SIGINT), (ended, errors)
            assert code != 130 or ended == -signal.SIGINT or "Traceback" not in errors, errors
        check()
    finish(begin())
    check()
    return f"{NUM_STOPS} stops, {hits} of them while a file was written"


def has_partial(folder: Path) -> bool:
    return any(".partial" in name for name in os.listdir(folder))


def write_weights(path: Path) -> None:
    """Writes the weights of a Mask R-CNN R50-FPN, all zero: 180 MB."""
    config = Config()
    shapes = jax.eval_shape(
        MaskRCNN(config.model).init, jax.random.key(0), *example_inputs(config.model)
    )
    flat = flax.traverse_util.flatten_dict(shapes)
    arrays = {path: np.zeros(x.shape, x.dtype) for path, x in flat.items()}
    saving.save(path, config, flax.traverse_util.unflatten_dict(arrays), None)


def convert(own: Path, folder: Path) -> str:
    """`convert` to each format of weight files."""
    write_weights(own / "weights.npz")
    seen = []
    for seed, suffix in enumerate((".npz", ".pth", ".safetensors")):
        output = own / "out"
        output.mkdir(exist_ok=True)
        final = output / f"final{suffix}"
        command = ["convert", own / "weights.npz", final]

        def check(final: Path = final) -> None:
            if final.exists():
                files.read(final)

        begin = partial(train_process.start_command, folder / "cache", *command)
        seen.append(stopped(begin, partial(has_partial, output), check, seed=seed))
    return f".npz, .pth, .safetensors: {seen}"


def export(own: Path, folder: Path) -> str:
    """`export` of a small model."""
    output = own / "out"
    output.mkdir()
    final = output / "model.npz"
    command = ["export", "--weights", whole(folder), final, "--size", "64x64"]

    def check() -> None:
        if final.exists():
            artifact.read(final)

    begin = partial(train_process.start_command, folder / "cache", *command)
    return stopped(begin, partial(has_partial, output), check, seed=10)


def prepare(own: Path, folder: Path) -> str:
    """`data prepare` of 300 images."""
    write_images(own / "images", 300)
    annotations, output = own / "images" / "annotations.json", own / "out"
    command = ["data", "prepare", "--images", own / "images", "--annotations", annotations]
    command += ["--split", "val", "--output", output]

    def is_writing() -> bool:
        return any(output.rglob("incomplete.*"))

    def check() -> None:
        coco_instances.is_prepared(annotations, "val", output)  # Raises if it is not whole.

    begin = partial(train_process.start_command, folder / "cache", *command)
    told = stopped(begin, is_writing, check, seed=20)
    assert coco_instances.is_prepared(annotations, "val", output) and not is_writing()
    return told


def browse(own: Path, folder: Path) -> str:
    """`data browse` with one file for each of 60 images."""
    write_images(own / "images", 60)
    output = own / "out"
    output.mkdir()
    command = ["data", "browse", "--images", own / "images", "--separate", "--count", "60"]
    command += ["--annotations", own / "images" / "annotations.json", "--output", output]

    def check() -> None:
        for path in output.glob("[!.]*.png"):
            Image.open(path).load()

    begin = partial(train_process.start_command, folder / "cache", *command)
    told = stopped(begin, partial(has_partial, output), check, seed=30)
    assert len(list(output.glob("[!.]*.png"))) == 60
    return told


DOWNLOAD = "import sys; from maskrcnn_jax.weights import download; download.fetch(sys.argv[1])"


def download(own: Path, folder: Path) -> str:
    """A download of 200 MB; what has come is kept, and the rest is asked for."""
    content = np.random.default_rng(0).bytes(200_000_000)
    name = f"resnet0-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    cache = own / "cache"

    def is_writing() -> bool:
        return any(cache.rglob("*.part"))

    def check() -> None:
        for path in cache.rglob(name):
            assert path.read_bytes() == content

    with running_server() as server:
        server.content = content
        os.environ["MASKRCNN_JAX_DOWNLOAD_URL"] = f"http://127.0.0.1:{server.server_port}"
        os.environ["no_proxy"] = "*"
        try:
            begin = partial(
                train_process.open_process, [sys.executable, "-c", DOWNLOAD, name], cache, 1
            )
            told = stopped(begin, is_writing, check, seed=40, code=-signal.SIGINT)
        finally:
            del os.environ["MASKRCNN_JAX_DOWNLOAD_URL"]
        resumed = sum(asked is not None for asked in server.ranges)
    assert [path.name for path in cache.rglob(name)] == [name]
    return f"{told}; {resumed} of {len(server.ranges)} requests were for the rest"


CASES = {
    "convert interrupted": convert,
    "export interrupted": export,
    "prepare interrupted": prepare,
    "browse interrupted": browse,
    "download interrupted": download,
}
