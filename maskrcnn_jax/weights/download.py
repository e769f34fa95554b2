"""torchvision's released weights: their names, and a cached copy of each, downloaded when it is first asked for."""

import contextlib
import fcntl
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column

from maskrcnn_jax import cache
from maskrcnn_jax.weights import files

# The weights that torchvision calls COCO_V1, by the name of its model function.
DETECTORS = {
    "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "maskrcnn_resnet50_fpn_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
}

# ResNets trained on ImageNet, by depth and torchvision's name of the weights. ResNet 18 and 34 have no second version.
BACKBONES = {
    (18, "IMAGENET1K_V1"): "resnet18-f37072fd.pth",
    (34, "IMAGENET1K_V1"): "resnet34-b627a593.pth",
    (50, "IMAGENET1K_V1"): "resnet50-0676ba61.pth",
    (50, "IMAGENET1K_V2"): "resnet50-11ad3fa6.pth",
    (101, "IMAGENET1K_V1"): "resnet101-63fe2227.pth",
    (101, "IMAGENET1K_V2"): "resnet101-cd907fc2.pth",
    (152, "IMAGENET1K_V1"): "resnet152-394f9c45.pth",
    (152, "IMAGENET1K_V2"): "resnet152-f82ba261.pth",
}

_DOWNLOAD_URL = "https://download.pytorch.org/models/"
_TIMEOUT = 30  # Seconds without a byte after which a connection counts as lost.
_BLOCK = 1 << 16  # Bytes read at a time; what a lost connection can cost.


def fetch(file_name: str) -> Path:
    """Path of a released file in the cache; downloads it when it is not there.

    The file returned has the sha256 that its name begins to spell, "resnet18-f37072fd.pth": it is checked on every
    call, since it may have been put there by hand. An interrupted download goes on where it stopped. Processes that
    want the same file wait for the first of them.

    Environment variables: MASKRCNN_JAX_DOWNLOAD_URL replaces torchvision's base address, MASKRCNN_JAX_CACHE the folder.

    Raises:
        ValueError: The name does not end in a dash, eight hex digits and a suffix.
        OSError: The file cannot be had: no network, an answer of the server, a full disk, the wrong content. The
            message says where it was looked for and what to do.
    """
    match = re.fullmatch(r"\w+-([0-9a-f]{8})\.\w+", file_name)
    if not match:
        raise ValueError(f"the name of a released file looks like resnet18-f37072fd.pth, got {file_name!r}")
    path = cache.folder() / file_name
    if not path.is_file():
        url = (os.environ.get("MASKRCNN_JAX_DOWNLOAD_URL") or _DOWNLOAD_URL).rstrip("/") + "/" + file_name
        _download(url, path, digest_start=match[1])
    elif not (digest := files.sha256(path)).startswith(match[1]):
        raise OSError(f"{path} is damaged: its sha256 is {digest}, not {match[1]}...; delete it to download it again")
    return path


def _download(url: str, path: Path, digest_start: str) -> None:
    """Puts the file at its path once it is whole and checked; until then it is beside it, as .part."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(f"{path.name}.lock")):
            if not path.is_file():  # Another process may have brought it while this one waited.
                _receive(url, part)
                _check(part, digest_start)
                part.replace(path)
    except (OSError, HTTPException, ValueError) as error:
        kept = f" {part} keeps {part.stat().st_size} bytes; running again resumes." if part.is_file() else ""
        by_hand = f"You can also download it by hand to {path} (MASKRCNN_JAX_CACHE sets the folder)."
        raise OSError(f"cannot download {url}: {error}.{kept} {by_hand}") from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds a file's lock, waiting for other processes. The system frees it when a process dies.

    The empty file stays: were it deleted, one process could lock the old file and another a new one.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that downloads {path.stem}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _receive(url: str, part: Path) -> None:
    """Appends to a partial file what it lacks, with a progress bar on stderr."""
    response, start, total = _open(url, part.stat().st_size if part.is_file() else 0)
    with response, part.open("ab" if start else "wb") as file, _progress() as progress:
        task = progress.add_task(part.stem, total=total, completed=start)
        while block := response.read(_BLOCK):
            file.write(block)
            progress.advance(task, len(block))
    # http.client returns a body that ends early as if it were whole.
    if total is not None and (size := part.stat().st_size) != total:
        raise OSError(f"the connection ended after {size} of {total} bytes")


def _progress() -> Progress:
    # The names are long: on a narrow terminal only the bar gives way.
    numbers = [column(table_column=Column(no_wrap=True)) for column in (DownloadColumn, TransferSpeedColumn)]
    columns = TextColumn("{task.description}"), BarColumn(), *numbers, TimeRemainingColumn(compact=True)
    return Progress(*columns, console=Console(stderr=True))


def _open(url: str, start: int) -> tuple[HTTPResponse, int, int | None]:
    """Asks for the bytes of a file from `start` on, or for all of it where the server does not give just these.

    Returns:
        The response, the position of its first byte in the file, and the size of the whole file if it is told.
    """
    headers = {"User-Agent": "maskrcnn_jax"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # Range not satisfiable: we have as much as the server, or more.
            return _open(url, 0)
        raise
    if start and response.status == 206:
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if content_range and int(content_range[1]) == start:
            return response, start, int(content_range[2])
        response.close()
        return _open(url, 0)
    length = response.headers.get("Content-Length")
    return response, 0, None if length is None else int(length)


def _check(part: Path, digest_start: str) -> None:
    """Deletes a file with another digest, so that the next download starts anew, and raises."""
    digest = files.sha256(part)
    if not digest.startswith(digest_start):
        part.unlink()
        raise OSError(f"sha256 of the content is {digest}, not {digest_start}...; it was deleted")
