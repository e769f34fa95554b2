"""The files of one image, and the message about one that failed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import predictions
from maskrcnn_jax.cli.predictions import Task
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.pasting import ImageDetections
from tests.cli.conftest import FindsOneBox, tiny_config
from tests.cli.test_predict import save

FOUND = ImageDetections(
    np.array([[1, 2, 11, 22]], np.float32), np.array([2]), np.array([0.5], np.float32), None
)


@pytest.fixture
def predict():
    """The results of an image, and how many of its parts were counted as done."""
    config = tiny_config()
    model = FindsOneBox(config.model, config.detection, Execution())
    detector = Detector(model, {}, Categories((3, 7), ("disc", "ring")), config.data)

    def run(task, find=lambda image, advance: FOUND, done=None):
        done = [] if done is None else done
        return predictions.of_image(task, find, detector, done.append), done

    return run


def test_results_have_the_ids_and_names_of_the_categories(predict, tmp_path):
    task = Task(save(tmp_path / "a.png"), tmp_path / "out.png", 1)
    (result,), done = predict(task)
    assert result["category_id"] == 7 and result["category_name"] == "ring" and done == [1]
    assert result["bbox"] == [1, 2, 10, 20] and result["file_name"] == str(task.path)


def test_only_what_was_asked_for_is_written(predict, tmp_path):
    path = save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    predict(Task(path, tmp_path / "out" / "a.png", 1, ("coco",)))
    assert not list((tmp_path / "out").iterdir())
    predict(Task(path, tmp_path / "out" / "a.png", 1, ("picture", "geojson")))
    assert {x.name for x in (tmp_path / "out").iterdir()} == {"a.png", "a.geojson"}


@pytest.mark.parametrize(
    "size, drawn",
    [
        ((40, 60), (520, 780)),  # Times 13, so that labels are legible.
        ((600, 700), (600, 700)),  # Never smaller.
        ((8, 300), (104, 3900)),  # Times 64 would be longer than 4096 pixels.
    ],
)
def test_small_images_are_enlarged(predict, tmp_path, size, drawn):
    predict(Task(save(tmp_path / "a.png", size), tmp_path / "b.png", 1))
    with Image.open(tmp_path / "b.png") as image:
        assert image.size[::-1] == drawn


def test_all_parts_of_an_image_that_failed_count_as_done(predict, tmp_path):
    def find(image, advance):
        advance(3)
        raise ValueError("no image of ours")

    done = []
    task = Task(save(tmp_path / "a.png"), tmp_path / "b.png", 8)
    with pytest.raises(ValueError, match="no image of ours"):
        predict(task, find, done)
    assert done == [3, 5] and not task.output.exists()


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError("cannot read the image a.png"), "cannot read the image a.png"),
        (ValueError("two channels"), "a.png: two channels"),
        (MemoryError(), "a.png: out of memory: use smaller images"),
        (RuntimeError("RESOURCE_EXHAUSTED: 7 GiB"), "a.png: out of memory: 7 GiB; use"),
    ],
)
def test_a_failure_names_the_file_once(error, message):
    assert predictions.failure(Task(Path("a.png"), Path("b.png"), 1), error).startswith(message)


def test_an_error_of_this_program_is_raised_again():
    error = RuntimeError("INTERNAL")
    with pytest.raises(RuntimeError) as raised:
        predictions.failure(Task(Path("a.png"), Path("b.png"), 1), error)
    assert raised.value is error
