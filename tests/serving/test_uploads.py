"""Uploads within limits: bytes are counted as they come, and pixels before they are decoded."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from starlette.exceptions import HTTPException  # noqa: E402
from starlette.requests import Request  # noqa: E402

from maskrcnn_jax.serving import uploads  # noqa: E402
from tests.serving.stand_in import encoded, png  # noqa: E402
from tests.serving.test_app import bomb  # noqa: E402


def request(*parts, **headers):
    """A request whose body comes in parts, and a list of those that were taken."""
    taken, left = [], list(parts)

    async def receive():
        taken.append(left.pop(0))
        return {"type": "http.request", "body": taken[-1], "more_body": bool(left)}

    pairs = [(name.replace("_", "-").encode(), x.encode()) for name, x in headers.items()]
    return Request({"type": "http", "headers": pairs}, receive), taken


def read(most, *parts, **headers):
    made, taken = request(*parts, **headers)
    return asyncio.run(uploads.read(made, most)), taken


def test_parts_are_joined_up_to_the_limit():
    assert read(6, b"abc", b"def")[0] == b"abcdef"
    assert read(6, b"abc", b"def", content_length="six")[0] == b"abcdef"


def test_too_many_bytes_are_refused_as_soon_as_they_are_known():
    made, taken = request(b"abc", content_length="1234567")
    with pytest.raises(HTTPException) as refused:
        asyncio.run(uploads.read(made, 1_000_000))
    assert refused.value.status_code == 413 and taken == []
    assert "1,234,567 bytes, and 1,000,000 bytes are allowed" in refused.value.detail
    made, taken = request(b"abc", b"def", b"ghi", content_length="3")  # It lies.
    with pytest.raises(HTTPException) as refused:
        asyncio.run(uploads.read(made, 5))
    assert refused.value.status_code == 413 and taken == [b"abc", b"def"]


def test_an_empty_body_is_refused():
    with pytest.raises(HTTPException) as refused:
        read(5, b"")
    assert refused.value.status_code == 400


def test_the_rest_of_a_body_is_read_unless_the_client_waits():
    made, taken = request(b"abc", b"def")
    asyncio.run(uploads.discard(made, 1.0))
    assert taken == [b"abc", b"def"]
    made, taken = request(b"abc", expect="100-Continue")
    asyncio.run(uploads.discard(made, 1.0))
    assert taken == []


def test_who_sends_no_more_is_not_waited_for():
    async def receive():
        await asyncio.sleep(60)

    made = Request({"type": "http", "headers": []}, receive)
    asyncio.run(uploads.discard(made, 0.01))


@pytest.mark.parametrize(
    "content, status",
    [
        (b"hello", 415),
        (bomb(60_000, 60_000), 413),
        (bomb(101, 100), 413),
        (bomb(100, 100), 422),
        (png()[:-30], 422),
    ],
)
def test_what_is_no_image_within_the_limits(content, status):
    with pytest.raises(HTTPException) as refused:
        uploads.decode(content, 10_000, 3, "uint8")
    assert refused.value.status_code == status


def test_pixels_up_to_the_limit_are_decoded():
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    np.testing.assert_array_equal(uploads.decode(encoded(pixels), 10_000, 3, "uint8"), pixels)
