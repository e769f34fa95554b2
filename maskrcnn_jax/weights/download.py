"""Released weights: the file names of torchvision's, and downloads to a cache on first use."""

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
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from maskrcnn_jax.weights import files
from maskrcnn_jax.xla import cache

# The weights that torchvision calls COCO_V1, by torchvision's model function.
DETECTORS = {
    "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    "maskrcnn_resnet50_fpn_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "fasterrcnn_resnet50_fpn_v2": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
}

# Backbones trained on ImageNet, by torchvision's names of network and weights. Some have one
# version.
BACKBONES = {
    ("resnet18", "IMAGENET1K_V1"): "resnet18-f37072fd.pth",
    ("resnet34", "IMAGENET1K_V1"): "resnet34-b627a593.pth",
    ("resnet50", "IMAGENET1K_V1"): "resnet50-0676ba61.pth",
    ("resnet50", "IMAGENET1K_V2"): "resnet50-11ad3fa6.pth",
    ("resnet101", "IMAGENET1K_V1"): "resnet101-63fe2227.pth",
    ("resnet101", "IMAGENET1K_V2"): "resnet101-cd907fc2.pth",
    ("resnet152", "IMAGENET1K_V1"): "resnet152-394f9c45.pth",
    ("resnet152", "IMAGENET1K_V2"): "resnet152-f82ba261.pth",
    ("convnext_tiny", "IMAGENET1K_V1"): "convnext_tiny-983f1562.pth",
    ("convnext_small", "IMAGENET1K_V1"): "convnext_small-0c510722.pth",
    ("convnext_base", "IMAGENET1K_V1"): "convnext_base-6075fbad.pth",
    ("convnext_large", "IMAGENET1K_V1"): "convnext_large-ea097f82.pth",
    ("resnext50_32x4d", "IMAGENET1K_V1"): "resnext50_32x4d-7cdf4587.pth",
    ("resnext50_32x4d", "IMAGENET1K_V2"): "resnext50_32x4d-1a0047aa.pth",
    ("resnext101_32x8d", "IMAGENET1K_V1"): "resnext101_32x8d-8ba56ff5.pth",
    ("resnext101_32x8d", "IMAGENET1K_V2"): "resnext101_32x8d-110c445d.pth",
    ("resnext101_64x4d", "IMAGENET1K_V1"): "resnext101_64x4d-173b62eb.pth",
}

_DOWNLOAD_URL = "https://download.pytorch.org/models/"
_TIMEOUT = 30  # Seconds without a byte after which a connection counts as lost.
_BLOCK = 1 << 16  # Bytes read at a time; a lost connection costs at most this many.
_MAX_BYTES = 4 << 30  # Released files are far smaller; a server may send without end.


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https, and one to http only from http on the same host."""

    max_redirections = 5
    max_repeats = 1

    def redirect_request(
        self, request: Any, file: Any, code: int, message: str, headers: Any, address: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(request.full_url), urlsplit(address)
        is_same = new.scheme == old.scheme == "http" and new.hostname == old.hostname
        if new.scheme != "https" and not is_same:
            raise OSError(f"the server redirects to {address[:200]!r}, which is not followed")
        return super().redirect_request(request, file, code, message, headers, address)


class Release(NamedTuple):
    """A released file."""

    base: str  # Address of the folder of all files.
    path: str  # Address of the file below it.
    file_name: str  # In the cache.
    algorithm: str  # Of the digest: "sha256" or "md5".
    digest_start: str  # The first digits of the digest, in hexadecimal.


def fetch(file_name: str) -> Path:
    """Returns the path of a file that torchvision released; see `fetch_release`.

    The name contains the first digits of the file's sha256, as in "resnet18-f37072fd.pth".

    Args:
        file_name: One of the names in `DETECTORS` or `BACKBONES`.

    Raises:
        ValueError: The name does not end in a dash, eight hex digits and a suffix.
        OSError: As in `fetch_release`.
    """
    match = re.fullmatch(r"\w+-([0-9a-f]{8})\.\w+", file_name)
    if not match:
        raise ValueError(
            f"the name of a released file looks like resnet18-f37072fd.pth, got {file_name!r}"
        )
    return fetch_release(Release(_DOWNLOAD_URL, file_name, file_name, "sha256", match[1]))


def fetch_release(release: Release) -> Path:
    """Returns the path of a released file in the cache and downloads the file if necessary.

    Every call checks the digest, because users may put files into the cache by hand. An interrupted
    download is resumed. If several processes want the same file, one of them downloads it.

    A redirect is followed to https, or from http to http on the same host.

    Environment variables: MASKRCNN_JAX_DOWNLOAD_URL replaces the base address, and
    MASKRCNN_JAX_CACHE the folder of the cache.

    Raises:
        OSError: The download failed (network, server, full disk, wrong content), or the cached file
            is damaged. The message gives the address and a remedy.
    """
    path = cache.folder() / release.file_name
    if not path.is_file():
        base = os.environ.get("MASKRCNN_JAX_DOWNLOAD_URL") or release.base
        _download(f"{base.rstrip('/')}/{release.path}", path, release)
    elif not (digest := files.digest(path, release.algorithm)).startswith(release.digest_start):
        raise OSError(
            f"{path} is damaged: its {release.algorithm} is {digest}, "
            f"not {release.digest_start}...; delete it to download it again"
        )
    return path


def _download(url: str, path: Path, release: Release) -> None:
    """Downloads to a file .part beside the path and moves it there once complete and checked."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(f"{path.name}.lock")):
            if not path.is_file():  # Another process may have downloaded it in the meantime.
                _receive(url, part)
                _check(part, release)
                part.replace(path)
    except (OSError, HTTPException, ValueError) as error:
        kept = ""
        if part.is_file():
            kept = f" {part} keeps {part.stat().st_size} bytes; running again resumes."
        by_hand = (
            f"You can also download it by hand to {path} (MASKRCNN_JAX_CACHE sets the folder)."
        )
        raise OSError(f"cannot download {url}: {error}.{kept} {by_hand}") from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits for the lock of a file and holds it. The system frees the lock when a process dies.

    The empty lock file is not deleted: otherwise one process could lock the deleted file and
    another process a new one.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that downloads {path.stem}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _receive(url: str, part: Path) -> None:
    """Downloads the missing rest of a partial file, with a progress bar on stderr."""
    response, start, total = _open(url, part.stat().st_size if part.is_file() else 0)
    with response, part.open("ab" if start else "wb") as file, _progress() as progress:
        task = progress.add_task(part.stem, total=total, completed=start)
        while block := response.read(_BLOCK):
            if file.tell() + len(block) > _MAX_BYTES:
                raise OSError(f"the server sends more than {_MAX_BYTES} bytes")
            file.write(block)
            progress.advance(task, len(block))
    # http.client does not report a body that ends early.
    if total is not None and (size := part.stat().st_size) != total:
        raise OSError(f"the connection ended after {size} of {total} bytes")


def _progress() -> Progress:
    # File names are long: on a narrow terminal only the bar shrinks.
    numbers = [
        column(table_column=Column(no_wrap=True))
        for column in (DownloadColumn, TransferSpeedColumn)
    ]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *numbers,
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=Console(stderr=True))


def _open(url: str, start: int) -> tuple[HTTPResponse, int, int | None]:
    """Requests a file from byte `start` on, or the whole file if the server refuses the range.

    Returns:
        The response, the position of its first byte in the file, and the size of the whole file, or
        None if the server does not tell it.
    """
    headers = {"User-Agent": "maskrcnn_jax"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    if request.type not in ("http", "https"):  # Such as file: or ftp:.
        raise ValueError("the address has to begin with https:// or http://")
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        # 416, range not satisfiable: the partial file is not shorter than the server's file.
        if start and error.code == 416:
            return _open(url, 0)
        raise
    if start and response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
        if match and int(match[1]) == start:
            return response, start, int(match[2])
        response.close()
        return _open(url, 0)
    length = response.headers.get("Content-Length")
    return response, 0, None if length is None else int(length)


def _check(part: Path, release: Release) -> None:
    """Raises OSError if the digest is wrong, and deletes the file to download it from the start."""
    digest = files.digest(part, release.algorithm)
    if not digest.startswith(release.digest_start):
        part.unlink()
        raise OSError(
            f"{release.algorithm} of the content is {digest}, not {release.digest_start}...; "
            "it was deleted"
        )
