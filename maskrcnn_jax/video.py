"""Reads videos as RGB arrays and writes arrays to an .mp4, with PyAV from the extra ``video``."""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
_USUAL_RATE = Fraction(25)  # Frames per second, assumed for files without a frame rate.


class Properties(NamedTuple):
    """The properties in the header of a video."""

    rate: Fraction  # Average number of frames per second.
    num_frames: int  # An estimate for some formats; 0 if unknown.


class Frame(NamedTuple):
    """A frame of a video, with the rotation of the video applied."""

    image: UInt8[np.ndarray, "h w 3"]
    seconds: float | None  # Time since the start of the video.


def check_installed() -> None:
    """Raises ValueError if PyAV is not installed; the message gives the command to install it."""
    _pyav()


def properties(path: Path) -> Properties:
    """Reads the header of a video. Raises OSError, which names the file, if it is not a video."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate, average = _USUAL_RATE, stream.average_rate
        if average and average.numerator:
            # PyAV has its own type of fraction since version 19.
            rate = Fraction(average.numerator, average.denominator)
        microseconds = container.duration or 0
        return Properties(rate, stream.frames or round(float(rate) * microseconds / 1e6))


def read(path: Path) -> Iterator[Frame]:
    """Yields the frames in order, with the rotation of the video applied.

    Videos of phones are often stored rotated.

    Raises:
        OSError: The file is not a video, or the next frame is broken. The message names the file.
    """
    with _opened(path) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24")
            # Both PyAV and NumPy count rotations counterclockwise.
            rotated = np.rot90(image, round(frame.rotation / 90))
            yield Frame(np.ascontiguousarray(rotated), frame.time)


@contextlib.contextmanager
def write(path: Path, rate: Fraction) -> Iterator[Callable[[UInt8[np.ndarray, "h w 3"]], None]]:
    """Yields a function that appends a frame to an .mp4 (H.264), a format that any browser plays.

    All frames must have the size of the first one. An odd side loses its last pixel, because the
    format stores colours at half resolution; a side of one pixel is doubled instead.

    Args:
        path: The file to write.
        rate: Frames per second.

    Raises:
        OSError: The file cannot be written.
    """
    with _pyav().open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"

        def append(image: UInt8[np.ndarray, "h w 3"]) -> None:
            if not stream.codec_context.is_open:
                stream.height, stream.width = (max(side // 2 * 2, 2) for side in image.shape[:2])
            twice = [(0, int(side == 1)) for side in image.shape[:2]]
            even = np.pad(image, [*twice, (0, 0)], mode="edge")[: stream.height, : stream.width]
            even = np.ascontiguousarray(even)
            container.mux(stream.encode(_pyav().VideoFrame.from_ndarray(even, format="rgb24")))

        try:
            yield append
        finally:  # After an error, keep the frames written so far.
            if stream.codec_context.is_open:
                container.mux(stream.encode())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    av = _pyav()
    try:
        # A playlist in the place of a video could name addresses.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise OSError(f"cannot read the video {path}: it has no images")
            yield container
    except av.FFmpegError as error:
        raise OSError(f"cannot read the video {path}: {error.strerror}") from error


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ValueError("videos need PyAV: install it by `pip install av`") from error
    return av
