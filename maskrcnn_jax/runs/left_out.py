"""The images that a run leaves out, because they could not be used when it began.

The list stands in the run directory. Every resumption and every process takes it from there, so all
of them see the same data sets.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from maskrcnn_jax import distributed, whole_files
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import checks
from maskrcnn_jax.data.dataset import Dataset

NAME = "left_out.json"

_logger = logging.getLogger(__name__)

LeftOut = dict[str, dict[int, str]]  # "train" and "val": the reason by image id.
# Shows the progress of a number of images.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


def find(
    directory: str | Path, config: DataConfig, train: Dataset, val: Dataset, progress: Progress
) -> LeftOut:
    """Reads the list of a run, or looks at the headers of all images if there is none.

    Only process 0 looks; all processes must call this.

    Args:
        directory: The run directory, which need not exist.
        config: Names the files that the list is for.
        train: The training images.
        val: The validation images.
        progress: Shows how many images were looked at.

    Raises:
        ValueError: More than half of the images of a set cannot be used, or one cannot and
            ``config.strict`` is set.
    """
    found: list[Any] = []
    if distributed.is_first():
        known = _read(Path(directory) / NAME, config)
        try:
            found = [known or {"sets": _look({"train": train, "val": val}, config, progress)}]
        except ValueError as error:
            found = [{"error": str(error)}]
    (found,) = distributed.gather(found)
    if "error" in found:
        raise ValueError(found["error"])
    pairs = found["sets"].items()
    return {name: {int(i): reason for i, reason in bad.items()} for name, bad in pairs}


def _look(sets: dict[str, Dataset], config: DataConfig, progress: Progress) -> LeftOut:
    found = {}
    for name, dataset in sets.items():
        if not (len(dataset) and hasattr(dataset, "check")):  # There are no files to look at.
            found[name] = {}
            continue
        several = name == "train" and config.train
        one = "tfds_dir" if config.source == "tfds" else f"{name}_annotations"
        what = f"images of data.{'train' if several else one}"
        with progress(f"check {name}", len(dataset)) as advance:
            found[name] = checks.find_bad(dataset, advance=advance)
        checks.check_few(found[name], len(dataset), what)
        if config.strict and found[name]:
            counted = f"{len(found[name])} of {len(dataset)} {what}"
            raise ValueError(f"{counted} cannot be used: {checks.summary(found[name])}")
    return found


def write(directory: str | Path, config: DataConfig, left_out: LeftOut) -> None:
    """Writes the list of a run, with the digests of the annotation files when the run began.

    A warning names the annotation files that have changed since then.

    Raises OSError if a file cannot be read or written.
    """
    digests = _digests(config)
    at_first = (_read(Path(directory) / NAME, config) or {}).get("sha256", digests)
    for path, digest in digests.items():
        if at_first.get(path, digest) != digest:
            _logger.warning("%s has changed since the run in %s began", path, directory)
    content = {"files": _files(config), "sha256": digests | at_first, "sets": left_out}
    whole_files.write_text(Path(directory) / NAME, json.dumps(content, indent=1) + "\n")


def _read(path: Path, config: DataConfig) -> dict[str, Any] | None:
    """The list, or None if there is none for these files."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["files"] != _files(config) or not content["sets"]:
            return None
        for bad in (content["sets"]["train"], content["sets"]["val"]):
            if not all(isinstance(reason, str) and int(i) < 2**31 for i, reason in bad.items()):
                raise ValueError("expected reasons by image id")
        return content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"{path} is not a list of left-out images: {reason}") from error


def _digests(config: DataConfig) -> dict[str, str]:
    """The SHA-256 of the annotation files, in hexadecimal."""
    paths = {entry[1] for entry in config.train} - {""}
    if config.source == "coco":
        paths |= {config.val_annotations} | (set() if config.train else {config.train_annotations})
    digests = {}
    for path in sorted(paths):
        with Path(path).expanduser().open("rb") as file:
            digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _files(config: DataConfig) -> list[str]:
    train, val = config.train_images, config.val_images
    several = [path for entry in config.train for path in entry[:2]]
    named = [config.source, train, config.train_annotations, val, config.val_annotations]
    prepared = [config.tfds_dir] if config.source == "tfds" else []
    return [*named, *several, *prepared]
