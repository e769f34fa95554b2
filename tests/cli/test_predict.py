"""`maskrcnn-jax predict` with a stand-in model that detects the upper left quarter of images."""

import io
import json
import re
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import detector, video
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.weights import loading


@pytest.fixture
def predict(run_directory, tmp_path):
    """Runs the command with more arguments; returns the exit code. Writes to tmp_path / "out"."""
    command = ["predict", "--weights", str(run_directory), "--output", str(tmp_path / "out")]
    return lambda *arguments: main([*command, *map(str, arguments)])


def save(path, size=(40, 60)):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)).save(
        path
    )
    return path


def read(path):
    return json.loads(path.read_text())


def test_predict_draws_what_it_can_read(run_directory, tmp_path, capsys):
    folders = tmp_path / "a", tmp_path / "b"
    for folder, size in zip(folders, [(50, 70), (64, 40)], strict=True):
        folder.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "007.png")
    broken = tmp_path / "broken.png"
    broken.write_text("not an image")
    paths = [str(folders[0] / "007.png"), str(broken), str(folders[1] / "007.png")]

    output = tmp_path / "out"
    command = [
        "predict",
        *paths,
        "--weights",
        str(run_directory),
        "--output",
        str(output),
        "--score-threshold",
        "0",
    ]
    assert main(command) == 1

    captured = capsys.readouterr()
    assert str(broken) in captured.err and str(output) in captured.out
    assert {path.name for path in output.iterdir()} == {
        "007.png",
        "007-2.png",
        "detections.json",
        "outputs.json",
    }
    with Image.open(output / "007.png") as drawn_image:
        assert drawn_image.size == (700, 500)  # Enlarged for legible labels.
    results = json.loads((output / "detections.json").read_text())
    assert {(r["image_id"], r["file_name"]) for r in results} == {
        ("007", paths[0]),
        ("007-2", paths[2]),
    }
    assert {tuple(r["segmentation"]["size"]) for r in results} == {(50, 70), (64, 40)}
    np.testing.assert_allclose(
        [r["bbox"] for r in results], [[0, 0, 35, 25], [0, 0, 20, 32]], atol=0.5
    )


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((8, 300), (104, 3900)), ((2, 2000), (4, 4000)), ((12000, 10), (12000, 10))],
    ids=str,
)
def test_strips_are_not_enlarged_without_bound(predict, tmp_path, size, drawn):
    assert predict(save(tmp_path / "strip.png", size)) == 0
    with Image.open(tmp_path / "out" / "strip.png") as drawn_image:
        assert drawn_image.size[::-1] == drawn
    (result,) = read(tmp_path / "out" / "detections.json")
    np.testing.assert_allclose(result["bbox"], [0, 0, size[1] / 2, size[0] / 2], rtol=0.1)


def test_results_name_the_category(predict, tmp_path):
    assert predict(save(tmp_path / "a.png")) == 0
    (result,) = read(tmp_path / "out" / "detections.json")
    assert set(result) == {
        "image_id",
        "category_id",
        "category_name",
        "bbox",
        "score",
        "segmentation",
        "file_name",
    }
    assert result["category_name"] == "disc" and result["category_id"] == 1


def test_a_model_without_a_mask_head_gives_boxes_alone(predict, tmp_path, run_directory):
    loading.load(run_directory).config.model.mask_head = None
    assert predict(save(tmp_path / "a.png", (64, 40))) == 0
    (result,) = read(tmp_path / "out" / "detections.json")
    assert set(result) == {"image_id", "category_id", "category_name", "bbox", "score", "file_name"}
    np.testing.assert_allclose(result["bbox"], [0, 0, 20, 32], atol=0.5)
    assert predict(save(tmp_path / "b.png", (64, 40)), "--augment") == 0
    assert all("segmentation" not in found for found in read(tmp_path / "out" / "detections.json"))


def test_files_that_cannot_be_read_are_listed_at_the_end(predict, tmp_path, capsys):
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_text("no image")
    cut = save(tmp_path / "d.png")
    cut.write_bytes(cut.read_bytes()[:3000])
    paths = [
        tmp_path / "a.png",
        save(tmp_path / "b.png"),
        tmp_path / "c.png",
        cut,
        save(tmp_path / "e.png"),
    ]
    assert predict(*paths) == 1
    lines = capsys.readouterr().err.strip().splitlines()[-4:]
    assert lines[0] == "maskrcnn-jax predict: 3 of 5 files failed:"
    for line, path in zip(lines[1:], (paths[0], paths[2], cut), strict=True):
        assert f"cannot read the image {path}: " in line
    assert {result["file_name"] for result in read(tmp_path / "out" / "detections.json")} == {
        str(paths[1]),
        str(paths[4]),
    }


def test_if_all_files_fail_earlier_results_stay(predict, tmp_path, capsys):
    assert predict(save(tmp_path / "a.png")) == 0
    before = read(tmp_path / "out" / "detections.json")
    capsys.readouterr()
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    assert before and predict(tmp_path / "a.png", tmp_path / "b.png") == 2
    captured = capsys.readouterr()
    assert "2 of 2 files failed:" in captured.err and "objects" not in captured.out
    assert read(tmp_path / "out" / "detections.json") == before


@pytest.fixture
def fails_at_third(monkeypatch):
    """Makes the detection of the third image raise a given error."""
    detect = detector.Detector.detect

    def fail(error):
        count = iter(range(100))

        def failing(self, image, *arguments):
            if next(count) == 2:
                raise error
            return detect(self, image, *arguments)

        monkeypatch.setattr(detector.Detector, "detect", failing)

    return fail


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("it is no image of ours"), "it is no image of ours"),
        (
            MemoryError("Unable to allocate 7 GiB"),
            "out of memory: Unable to allocate 7 GiB; use smaller images",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory."),
            "out of memory: Out of memory; use smaller images",
        ),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_fails_in_one_image_keeps_the_results_of_the_others(
    predict, tmp_path, fails_at_third, capsys, error, message
):
    paths = [save(tmp_path / f"{name}.png") for name in "abcd"]
    fails_at_third(error)
    assert predict(*paths) == 1
    assert f"1 of 4 files failed:\n  {paths[2]}: {message}" in capsys.readouterr().err
    found = [result["file_name"] for result in read(tmp_path / "out" / "detections.json")]
    assert found == [str(paths[0]), str(paths[1]), str(paths[3])]


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("an error of ours"), None)]
)
def test_what_was_found_before_the_end_is_kept(predict, tmp_path, fails_at_third, error, code):
    paths = [save(tmp_path / f"{name}.png") for name in "abcd"]
    fails_at_third(error)
    if code is None:  # An unknown error keeps its traceback.
        with pytest.raises(RuntimeError, match="an error of ours"):
            predict(*paths)
    else:
        assert predict(*paths) == code
    found = [result["file_name"] for result in read(tmp_path / "out" / "detections.json")]
    assert found == [str(paths[0]), str(paths[1])]


def test_what_is_not_there_is_named_before_the_work(predict, tmp_path, capsys):
    present = save(tmp_path / "a.png")
    assert predict(tmp_path / "none.png", present, tmp_path / "no*.jpg") == 2
    error = capsys.readouterr().err
    assert "none.png" in error and "no*.jpg" in error and "a.png" not in error
    (tmp_path / "empty").mkdir()
    assert predict(tmp_path / "empty") == 2
    assert re.search("no image or video in .*empty", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_no_image_is_overwritten(predict, tmp_path, capsys):
    path = save(tmp_path / "out" / "a.png")
    content = path.read_bytes()
    assert predict(path) == 2
    assert (
        "would overwrite what the command reads" in capsys.readouterr().err
        and path.read_bytes() == content
    )


def test_threshold_and_number_reach_the_detector(predict, tmp_path, monkeypatch):
    given = []
    detect = detector.Detector.detect

    def note(self, image, *arguments):
        given.append(arguments)
        return detect(self, image, *arguments)

    monkeypatch.setattr(detector.Detector, "detect", note)
    image = save(tmp_path / "a.png")
    assert predict(image, "--top-k", 3, "--score-threshold", 0.25) == 0
    assert predict(image) == 0
    assert given == [(0.25, 3), (0.5, None)]


def test_augmented(predict, tmp_path):
    image = save(tmp_path / "a.png", (64, 40))
    assert predict(image, "--augment") == 0
    found = read(tmp_path / "out" / "detections.json")
    # The upper left quarter of the image, and that of its mirror image.
    np.testing.assert_allclose(
        [result["bbox"] for result in found], [[0, 0, 20, 32], [20, 0, 20, 32]], atol=0.5
    )


def test_a_video_becomes_a_video_and_lines(predict, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    with video.write(tmp_path / "clip.mp4", Fraction(10)) as append:
        for i in range(3):
            append(np.full((64, 96, 3), 40 * i, np.uint8))
    (tmp_path / "broken.mov").write_text("no video")
    assert predict(tmp_path / "clip.mp4", tmp_path / "broken.mov", save(tmp_path / "clip.png")) == 1
    captured = capsys.readouterr()
    assert "1 object in 1 image" in captured.out and "videos: 1" in captured.out
    assert "1 of 3 files failed" in captured.err and "broken.mov" in captured.err
    output = tmp_path / "out"
    assert {path.name for path in output.iterdir()} == {
        "clip.mp4",
        "clip.jsonl",
        "clip-2.png",
        "detections.json",
        "outputs.json",
    }
    assert [frame.image.shape for frame in video.read(output / "clip.mp4")] == [(512, 768, 3)] * 3
    assert video.properties(output / "clip.mp4").rate == 10
    lines = [json.loads(line) for line in (output / "clip.jsonl").read_text().splitlines()]
    assert [(line["frame"], round(line["seconds"], 3)) for line in lines] == [
        (0, 0.0),
        (1, 0.1),
        (2, 0.2),
    ]
    assert [len(line["detections"]) for line in lines] == [1, 1, 1]
    np.testing.assert_allclose(lines[2]["detections"][0]["bbox"], [0, 0, 48, 32], atol=0.5)


def test_videos_without_their_package(predict, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_text("")
    assert predict(tmp_path / "clip.mp4") == 2
    assert "pip install" in capsys.readouterr().err


def image_ids(folder):
    return [result["image_id"] for result in read(folder / "out" / "detections.json")]


@pytest.mark.parametrize(
    "names, expected",
    [
        (["1", "01", "0001"], ["1", "01", "0001"]),
        (["7", "007b"], ["7", "007b"]),
        (["000000000139", "000000000285"], [139, 285]),
        (["a"], ["a"]),
    ],
)
def test_image_ids_differ_and_are_of_one_type(predict, tmp_path, names, expected):
    assert predict(*(save(tmp_path / "in" / f"{name}.png") for name in names)) == 0
    assert image_ids(tmp_path) == expected


def test_image_ids_may_come_from_a_file(predict, tmp_path, capsys):
    paths = [save(tmp_path / "in" / f"{name}.png") for name in ("b", "a")]
    entries = [
        {"id": 40 + i, "file_name": f"photos/{name}.png", "height": 40, "width": 60}
        for i, name in enumerate("abc")
    ]
    content = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / "ids.json").write_text(json.dumps(content))
    assert predict(*paths, "--ids", tmp_path / "ids.json") == 0
    assert image_ids(tmp_path) == [41, 40]
    other = save(tmp_path / "in" / "d.png")
    assert predict(other, "--ids", tmp_path / "ids.json") == 2
    assert re.search("has no id, or several, for 1 images: .*d.png", capsys.readouterr().err)


def test_the_folders_of_equal_names_decide_their_ids(predict, tmp_path, capsys):
    paths = [save(tmp_path / "in" / name / "1.png") for name in ("x", "y")]
    names = {7: "x\\1.png", 8: "in/y/1.png"}
    entries = [{"id": i, "file_name": x, "height": 40, "width": 60} for i, x in names.items()]
    content = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(content))
    assert predict(*paths, "--ids", ids) == 0
    assert image_ids(tmp_path) == [7, 8]
    ids.write_text(json.dumps(content | {"images": entries[:1]}))
    assert predict(*paths, "--ids", ids) == 2
    assert "gives several of the images the same id" in capsys.readouterr().err


def test_no_file_of_a_folder_is_skipped_without_a_word(predict, tmp_path, capsys):
    folder = tmp_path / "in"
    for name in ("a.jpg", "b.png", "c.webp", "d.bmp", "e.tiff"):
        save(folder / name)
    for old, new in (("a.jpg", "a.jfif"), ("b.png", "b.PNG"), ("c.webp", "noending")):
        (folder / old).rename(folder / new)
    for name in ("x.heic", "y.HEIC", "z.svg"):
        (folder / name).write_bytes(b"\0\0\0\x24ftypheic" + b"\0" * 90)
    (folder / "notes.txt").write_text("no image")
    assert predict(folder) == 1
    captured = capsys.readouterr()
    assert "5 objects in 5 images" in captured.out
    assert "3 of 8 files failed" in captured.err
    assert captured.err.count("it is HEIC, as iPhones write: convert it to JPEG") == 3


def test_a_tilde_is_the_home_folder(predict, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "in" / "a.png")
    assert predict("~/in/a.png", "--output", "~/pictures") == 0
    assert (tmp_path / "pictures" / "a.png").exists() and not (tmp_path / "~").exists()


def test_a_terminal_without_the_letters_costs_nothing(predict, tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert predict(save(tmp_path / "Früchte" / "a.png"), "--output", tmp_path / "Bilder é") == 0
    stream.flush()
    assert b"Bilder ?" in stream.buffer.getvalue()
