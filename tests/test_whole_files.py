"""A file has its old content or its new one, and an error of writing names the file."""

import errno
import json
import os

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import evaluation, whole_files
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.lost_images import LostImages
from maskrcnn_jax.runs import events, left_out
from maskrcnn_jax.runs.metrics import MetricsLog
from maskrcnn_jax.weights import files

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("no number")])
@pytest.mark.parametrize("old", ["old", None])
def test_an_interrupted_write_changes_nothing(tmp_path, error, old):
    path = tmp_path / ("a" * 250 + ".txt")
    if old is not None:
        path.write_text(old)
    with pytest.raises(OSError if error is FULL else type(error)) as raised:
        with whole_files.replacing(path) as temporary:
            temporary.write_text("ne")
            raise error
    assert (path.read_text() if path.exists() else None) == old
    assert os.listdir(tmp_path) == ([path.name] if old else [])
    if error is FULL:
        assert str(raised.value) == f"cannot write {path}: No space left on device"


def test_a_name_keeps_its_suffix_for_writers_that_go_by_it(tmp_path):
    with whole_files.replacing(tmp_path / "a.b.png") as temporary:
        Image.new("RGB", (2, 2)).save(temporary)
        assert temporary.suffix == ".png" and temporary.name.startswith(".")
    assert os.listdir(tmp_path) == ["a.b.png"]


def fill(monkeypatch):
    """Lets every write of a text or a file fail, as on a full disk."""

    def fail(*args, **kwargs):
        raise FULL

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    monkeypatch.setattr("pathlib.Path.open", fail)


EVALUATION = evaluation.Evaluation({"AP": 0.5}, None, {"loss": 1.0}, {}, None, [], ())
WRITERS = {
    "metrics.jsonl": lambda folder: MetricsLog(folder / "metrics.jsonl", 0),
    "left_out.json": lambda folder: left_out.write(folder, DataConfig(source="shapes"), {}),
    "lost_images.0.jsonl": lambda folder: LostImages(folder).add(1, 2, "gone"),
    "evaluation.json": lambda folder: evaluation.write(folder, EVALUATION),
    "weights.npz": lambda folder: files.write(folder / "weights.npz", {"a": np.ones(3)}),
    "weights.pth": lambda folder: files.write(folder / "weights.pth", {"a": np.ones(3)}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_file_of_ours_is_named(tmp_path, monkeypatch, name):
    fill(monkeypatch)
    with pytest.raises(OSError) as raised:
        WRITERS[name](tmp_path)
    assert str(raised.value) == f"cannot write {tmp_path / name}: No space left on device"
    assert os.listdir(tmp_path) == []


def test_safetensors_on_a_full_disk_are_an_error_of_the_disk(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise files.safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", fail)
    path = tmp_path / "w.safetensors"
    with pytest.raises(OSError, match="cannot write .*w.safetensors: No space left on device"):
        files.write(path, {"a": np.ones(3)})


class Full:
    """A file on a full disk: what is written stays in its buffer, and each flush fails."""

    name = "metrics.jsonl"

    def write(self, content):
        pass

    write_event = write

    def flush(self):
        raise FULL

    close = flush


def test_a_log_that_cannot_be_written_is_named_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log._file.close()
    log._file = Full()
    with pytest.raises(OSError, match=r"^cannot write metrics.jsonl: No space left on device$"):
        log.write(1, {"loss": 1.0})
    log.close()  # Raises nothing new.


def test_events_that_cannot_be_written_are_named_once(tmp_path):
    file = events.EventFile(tmp_path, 0)
    file._file.close()
    file._file = Full()
    with pytest.raises(OSError, match="cannot write TensorBoard's events in .*: No space left"):
        file.scalars(1, {"loss": 1.0})
    file.close()


def test_half_a_line_spoils_no_later_line(tmp_path):
    """A full disk may take half a line; the next one is whole again."""
    path = tmp_path / "lost_images.0.jsonl"
    LostImages(tmp_path).add(1, 2, "gone")
    with path.open("a") as file:
        file.write('{"step": 3, "image_')
    LostImages(tmp_path).add(5, 6, "gone too")
    assert LostImages(tmp_path).reason(5, 6) == "gone too"
    assert json.loads(path.read_text().splitlines()[-1])["step"] == 5
    LostImages(tmp_path).add(7, 8, "gone as well")
    assert path.read_text().count("\n") == 4
