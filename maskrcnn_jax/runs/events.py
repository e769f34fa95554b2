"""Event files for TensorBoard: the metrics of a run by step, and detections in some images.

The numbers are those of the log in `metrics`. Each start of a run opens a new file, and removes
from the earlier files the steps that the run will take again.
"""

import contextlib
import io
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import UInt8
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from maskrcnn_jax import whole_files

_JPEG_QUALITY = 85


class EventFile:
    """Writes numbers and images to the event files of a run, which hold each step once."""

    def __init__(self, directory: str | Path, start: int) -> None:
        """Opens a new file for a run that has taken ``start`` steps.

        Raises:
            OSError: The file cannot be written.
        """
        for path in sorted(Path(directory).glob("*.tfevents.*")):
            _cut(path, start)
        self._directory = Path(directory)
        self._file = EventsWriter(str(self._directory / "events"), f".{start}")
        # Makes a running TensorBoard forget the removed steps.
        log = SessionLog(status=SessionLog.START)
        self._write(Event(step=start + 1, session_log=log))

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """Writes an entry of the log under its `tags`. Raises OSError if that fails."""
        numbers = tags(values).items()
        found = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers]
        self._write(Event(step=step, summary=Summary(value=found)))

    def images(self, step: int, images: dict[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Writes uint8 RGB images by name. Raises OSError if that fails."""
        found = [Summary.Value(tag=name, image=_encode(image)) for name, image in images.items()]
        self._write(Event(step=step, summary=Summary(value=found)))

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # `_write` has flushed every event, or raised.
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with whole_files.naming(f"TensorBoard's events in {self._directory}"):
            self._file.write_event(event)
            self._file.flush()


def tags(values: dict[str, Any]) -> dict[str, float]:
    """Renames the numbers of a log entry to TensorBoard's ``group/name``.

    The groups are losses, training and diagnostics for a step, and bbox, segm and validation for
    an evaluation. Undefined COCO numbers are left out.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            defined = {key: number for key, number in value.items() if number != -1}
            found |= {f"{name}/{key}": number for key, number in defined.items()}
        elif name.startswith("loss"):
            found[f"losses/{name}"] = value
        elif name in ("learning_rate", "images_per_second", "gradient_norm"):
            found[f"training/{name}"] = value
        else:
            found[f"diagnostics/{name}"] = value
    return found


def read(path: str | Path) -> Iterator[tuple[Event, int]]:
    """Reads events, each with the byte offset of its end, up to the first unreadable event."""
    content, end = Path(path).read_bytes(), 0
    # TFRecord: 8 bytes of length, 4 of its checksum, the event, 4 of the event's checksum.
    while end + 16 < len(content):
        (length,) = struct.unpack_from("<Q", content, end)
        start, end = end + 12, end + 16 + length
        if end > len(content):
            return  # A killed process leaves half an event.
        try:
            event = Event.FromString(content[start : start + length])
        except DecodeError:
            return
        yield event, end


def _cut(path: Path, last_step: int) -> None:
    """Truncates a file after the events up to a step; later steps always follow earlier ones."""
    end = 0
    for event, after in read(path):
        if event.step > last_step and event.HasField("summary"):
            break
        end = after
    os.truncate(path, end)


def _encode(image: UInt8[np.ndarray, "h w 3"]) -> Summary.Image:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=_JPEG_QUALITY)
    height, width, channels = image.shape
    return Summary.Image(
        height=height,
        width=width,
        colorspace=channels,
        encoded_image_string=content.getvalue(),
    )
