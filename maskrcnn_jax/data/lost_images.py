"""The record of images that could not be read while a run trained.

Such an image takes no part in its step. A run that goes on from an earlier checkpoint repeats its
steps with the same images missing, even if they can be read again, and so ends with the same bits.
"""

import json
import logging
import os
import threading
from pathlib import Path

from maskrcnn_jax import whole_files

_PATTERN = "lost_images.*.jsonl"  # One file for each process.

_logger = logging.getLogger(__name__)


class LostImages:
    """Which images were lost at which step, in a run directory."""

    def __init__(self, directory: str | Path, process: int = 0) -> None:
        """Reads what all processes of the run have recorded.

        Args:
            directory: The run directory.
            process: The index of this process.
        """
        self._path = Path(directory) / _PATTERN.replace("*", str(process))
        self._lock = threading.Lock()
        self._recorded: dict[tuple[int, int], str] = {}
        for path in sorted(Path(directory).glob(_PATTERN)):
            self._recorded |= _read(path)
        self._named: set[int] = set()

    def reason(self, step: int, image_id: int) -> str | None:
        """Why an image was lost at a step; None if it was not."""
        return self._recorded.get((step, image_id))

    def add(self, step: int, image_id: int, reason: str) -> None:
        """Records an image before its batch is used; the first time, a warning names it.

        Raises OSError if the record cannot be written.
        """
        with self._lock:
            if (step, image_id) in self._recorded:
                return
            entry = {"step": step, "image_id": image_id, "reason": reason}
            with whole_files.naming(self._path):
                _append(self._path, json.dumps(entry))
            self._recorded[step, image_id] = reason
            if image_id not in self._named:
                self._named.add(image_id)
                _logger.warning("image id %d takes no part in step %d: %s", image_id, step, reason)


def _append(path: Path, line: str) -> None:
    """Appends a line. A full disk or a killed run may have left half a line before it."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        is_whole = file.read() in (b"", b"\n")
        file.write((line if is_whole else f"\n{line}").encode() + b"\n")


def _read(path: Path) -> dict[tuple[int, int], str]:
    """Reads a record. A killed run may leave half a last line, which is skipped."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            found[int(entry["step"]), int(entry["image_id"])] = str(entry["reason"])
        except (ValueError, KeyError, TypeError):
            continue
    return found
