"""Videos: their frames as RGB arrays, and arrays as an .mp4. PyAV does it, which comes with the extra ``video``."""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
_USUAL_RATE = Fraction(25)  # Frames per second, of files that do not say.


class Properties(NamedTuple):
    """What a video says of itself."""

    rate: Fraction  # Frames per second, on average.
    num_frames: int  # Of some formats an estimate; 0 if nothing says.


class Frame(NamedTuple):
    """A picture of a video, the way it is to be shown."""

    image: UInt8[np.ndarray, "h w 3"]
    seconds: float | None  # From the start of the video.


def check_installed() -> None:
    """Raises ValueError, with the command that installs it, if PyAV is not there."""
    _pyav()


def properties(path: Path) -> Properties:
    """Reads the head of a video. Raises OSError, which names the file, if it is no video."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        average = stream.average_rate  # A fraction of PyAV's own since version 19.
        rate = Fraction(average.numerator, average.denominator) if average and average.numerator else _USUAL_RATE
        microseconds = container.duration or 0
        return Properties(rate, stream.frames or round(float(rate) * microseconds / 1e6))


def read(path: Path) -> Iterator[Frame]:
    """The frames one after the other, turned as the video says, which those of phones do.

    Raises:
        OSError: It is no video, or broken from the next frame on. The message names the file.
    """
    with _opened(path) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24")
            # Counterclockwise, both of them.
            yield Frame(np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))), frame.time)


@contextlib.contextmanager
def write(path: Path, rate: Fraction) -> Iterator[Callable[[UInt8[np.ndarray, "h w 3"]], None]]:
    """Yields the function that appends a frame to an .mp4 (H.264), which any browser shows.

    All frames have the size of the first one. An odd side loses its last pixel, because colours have half the
    resolution; a single pixel is shown twice instead.

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
        finally:  # What there is of a broken video is kept.
            if stream.codec_context.is_open:
                container.mux(stream.encode())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise OSError(f"cannot read the video {path}: it has no pictures")
            yield container
    except av.FFmpegError as error:
        raise OSError(f"cannot read the video {path}: {error.strerror}") from error


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ValueError("videos need PyAV: install it by `pip install av`") from error
    return av
