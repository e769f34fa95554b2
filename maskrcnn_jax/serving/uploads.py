"""Reads uploaded images, within limits."""

import asyncio
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from maskrcnn_jax import images
from maskrcnn_jax.image_files.bands import TooManyPixels
from maskrcnn_jax.images import Pixels


class Limits(NamedTuple):
    """The limits of a server; it refuses a request beyond them."""

    num_bytes: int = 20 * 2**20  # Of an upload.
    num_pixels: int = 50_000_000  # Of an image.
    seconds: float = 60.0  # From the start of a request to its answer.
    num_requests: int = 32  # At once. Others are told to come again.


async def read(request: Request, most: int) -> bytes:
    """Reads the body of a request.

    Raises HTTPException 413 for more than ``most`` bytes, and 400 for none.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(f"{int(declared):,} bytes", f"{most:,} bytes")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise _too_large("more bytes", f"{most:,} bytes")
    if not content:
        raise HTTPException(400, "the body is empty: send the content of an image file")
    return bytes(content)


async def discard(request: Request, seconds: float) -> None:
    """Reads the rest of a body, and keeps none of it.

    Many clients see no answer before they have sent everything. One that asked first, by the header
    ``Expect``, has sent nothing.
    """
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    try:
        async with asyncio.timeout(seconds):
            async for _ in request.stream():
                pass
    except (TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it was read before.
        pass


def decode(content: bytes, most: int, num_channels: int, dtype: str) -> Pixels:
    """Decodes an image of at most ``most`` pixels.

    Raises HTTPException 415 if it is no image, 413 if it has too many pixels, and 422 if it is
    broken or has other channels.
    """
    try:
        header = images.content_header(content)
    except TooManyPixels as error:
        raise HTTPException(413, f"the image is too large: {error}") from error
    except OSError as error:
        raise HTTPException(415, f"cannot read the image: {error}") from error
    if header.height * header.width > most:
        raise _too_large(f"{header.width}x{header.height} pixels", f"{most:,} pixels")
    try:
        return images.decode_image(content, num_channels, dtype)
    except OSError as error:
        raise HTTPException(422, f"cannot read the image: {error}") from error


def _too_large(found: str, most: str) -> HTTPException:
    """The answer 413 to an image with more bytes or pixels than `Limits` allow."""
    return HTTPException(413, f"the image is too large: it has {found}, and {most} are allowed")
