"""TensorBoard's files have each step once, and TensorBoard can read them."""

import io
import itertools
from collections import Counter

import numpy as np
import pytest
import tensorboardX.event_file_writer
from PIL import Image

from maskrcnn_jax.runs import events
from maskrcnn_jax.runs.events import EventFile

ENTRY = {"loss": 1.5, "loss_mask": 0.5, "learning_rate": 0.25, "mask_accuracy": 0.75}
NUMBERS = {
    "bbox": {"AP": 0.5, "APs": -1.0},
    "segm": {"AP": 0.25, "APs": 0.0},
    "validation": {"loss": 2.0},
}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Advances the clock at each call, because file names contain the second of opening."""
    seconds = itertools.count(1_700_000_000)
    monkeypatch.setattr(tensorboardX.event_file_writer.time, "time", lambda: float(next(seconds)))


def contents(folder):
    """(step, tag, value) of all files in TensorBoard's order; for an image, value is its shape."""
    found = []
    for path in sorted(folder.glob("*.tfevents.*")):
        for event, _ in events.read(path):
            for value in event.summary.value:
                image = (
                    Image.open(io.BytesIO(value.image.encoded_image_string))
                    if value.HasField("image")
                    else None
                )
                found.append(
                    (event.step, value.tag, np.shape(image) if image else value.simple_value)
                )
    return found


def write(folder, start, steps):
    file = EventFile(folder, start)
    for step in steps:
        file.scalars(step, {"loss": float(step)})
    file.close()


def test_tags_group_the_numbers_of_the_log():
    assert events.tags(ENTRY) == {
        "losses/loss": 1.5,
        "losses/loss_mask": 0.5,
        "training/learning_rate": 0.25,
        "diagnostics/mask_accuracy": 0.75,
    }
    assert events.tags(NUMBERS) == {
        "bbox/AP": 0.5,
        "segm/AP": 0.25,
        "segm/APs": 0.0,
        "validation/loss": 2.0,
    }


def test_numbers_and_images_are_written_at_once(tmp_path):
    file = EventFile(tmp_path, 0)
    file.scalars(5, ENTRY)
    file.images(6, {"predictions/image 1": np.full((40, 60, 3), 200, np.uint8)})
    assert contents(tmp_path) == [
        (5, "losses/loss", 1.5),
        (5, "losses/loss_mask", 0.5),
        (5, "training/learning_rate", 0.25),
        (5, "diagnostics/mask_accuracy", 0.75),
        (6, "predictions/image 1", (40, 60, 3)),
    ]
    file.close()


def test_a_run_that_goes_on_has_each_step_once(tmp_path):
    write(tmp_path, 0, [10, 20, 30, 40])
    write(tmp_path, 20, [30, 40, 50])
    write(tmp_path, 40, [50, 60])
    assert contents(tmp_path) == [
        (step, "losses/loss", float(step)) for step in (10, 20, 30, 40, 50, 60)
    ]
    write(tmp_path, 10, [20])  # Resumes from a much earlier checkpoint.
    assert [step for step, _, _ in contents(tmp_path)] == [10, 20]
    write(tmp_path, 20, [])  # A finished run is started again.
    assert [step for step, _, _ in contents(tmp_path)] == [10, 20]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data[:-3] + b"\x00" * 3000 + b"\xff" * 3000]
)
def test_what_a_killed_process_left_is_removed(tmp_path, damage):
    write(tmp_path, 0, [10, 20, 30])
    (path,) = tmp_path.glob("*.tfevents.*")
    path.write_bytes(damage(path.read_bytes()))
    write(tmp_path, 20, [30])
    assert [step for step, _, _ in contents(tmp_path)] == [10, 20, 30]


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        EventFile(tmp_path / "file", 0)


def test_tensorboard_reads_the_same(tmp_path):
    """A running TensorBoard forgets the steps that a resumed run takes again."""
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    accumulator = accumulators.EventAccumulator(
        str(tmp_path), {"scalars": 0, "images": 0, "tensors": 0}
    )
    write(tmp_path, 0, [10, 20, 30])
    accumulator.Reload()
    file = EventFile(tmp_path, 20)
    file.scalars(30, {"loss": 3.5} | NUMBERS)
    file.images(30, {"predictions/image 1": np.zeros((8, 9, 3), np.uint8)})
    file.close()
    for reader in (accumulator, accumulators.EventAccumulator(str(tmp_path))):
        reader.Reload()
        assert [(event.step, event.value) for event in reader.Scalars("losses/loss")] == [
            (10, 10),
            (20, 20),
            (30, 3.5),
        ]
        assert [(event.step, event.value) for event in reader.Scalars("segm/AP")] == [(30, 0.25)]
        (image,) = reader.Images("predictions/image 1")
        assert (image.step, image.height, image.width) == (30, 8, 9)
    assert max(Counter(contents(tmp_path)).values()) == 1
