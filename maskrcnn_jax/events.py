"""What TensorBoard shows of a run: its numbers by step, and what it finds in some images.

The numbers are those of the log, `metrics`. Each process of a run writes a file of its own, and removes from the
earlier ones what they say of steps that are about to be taken again.
"""

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

_JPEG_QUALITY = 85


class EventFile:
    """Appends numbers and pictures to TensorBoard's event files of a run, and keeps each step in them once."""

    def __init__(self, directory: str | Path, start: int) -> None:
        """Opens a new file for a run that has taken ``start`` steps.

        Raises:
            OSError: It cannot be written.
        """
        for path in sorted(Path(directory).glob("*.tfevents.*")):
            _cut(path, start)
        self._file = EventsWriter(str(Path(directory) / "events"), f".{start}")
        # A TensorBoard that is watching has read what was just removed: this makes it forget.
        self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """Writes numbers, each under its `tags`; raises OSError."""
        found = [Summary.Value(tag=tag, simple_value=value) for tag, value in tags(values).items()]
        self._write(Event(step=step, summary=Summary(value=found)))

    def pictures(self, step: int, pictures: dict[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Writes RGB pictures, each under its name; raises OSError."""
        found = [Summary.Value(tag=name, image=_encode(picture)) for name, picture in pictures.items()]
        self._write(Event(step=step, summary=Summary(value=found)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
        self._file.flush()


def tags(values: dict[str, Any]) -> dict[str, float]:
    """An entry of the log by TensorBoard's names, ``group/name``, without those COCO numbers that are undefined.

    Groups are losses, training, diagnostics, and of an evaluation bbox, segm and validation.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}/{key}": number for key, number in value.items() if number != -1}
        elif name.startswith("loss"):
            found[f"losses/{name}"] = value
        elif name in ("learning_rate", "images_per_second", "gradient_norm"):
            found[f"training/{name}"] = value
        else:
            found[f"diagnostics/{name}"] = value
    return found


def read(path: str | Path) -> Iterator[tuple[Event, int]]:
    """The events of a file, each with the position where it ends, as far as it can be read."""
    content, end = Path(path).read_bytes(), 0
    while end + 16 < len(content):  # Eight bytes for the length, and four for a check sum after it and after the event.
        (length,) = struct.unpack_from("<Q", content, end)
        start, end = end + 12, end + 16 + length
        if end > len(content):
            return  # The process was killed while it wrote.
        try:
            event = Event.FromString(content[start : start + length])
        except DecodeError:
            return
        yield event, end


def _cut(path: Path, last_step: int) -> None:
    """Shortens a file to the events up to a step; later ones are always behind them."""
    end = 0
    for event, after in read(path):
        if event.step > last_step and event.HasField("summary"):
            break
        end = after
    os.truncate(path, end)


def _encode(picture: UInt8[np.ndarray, "h w 3"]) -> Summary.Image:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=_JPEG_QUALITY)
    height, width, channels = picture.shape
    return Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=content.getvalue())
