"""Commands replace only what they have written themselves, and look before their work."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import outputs
from maskrcnn_jax.cli.main import main
from tests.cli.test_predict import predict, save  # noqa: F401


def write(folder, *names, command="some command", text="new", **options):
    with outputs.claim(command, [folder / name for name in names], **options) as add:
        for name in names:
            add(folder / name)
            (folder / name).write_text(text)


def test_a_command_replaces_what_it_has_written(tmp_path):
    write(tmp_path, "a", "b", text="old")
    write(tmp_path, "b", "c")
    assert [(tmp_path / name).read_text() for name in "abc"] == ["old", "new", "new"]
    listed = json.loads((tmp_path / "outputs.json").read_text())["files"]
    assert list(listed) == ["a", "b", "c"] and listed["c"]["command"] == "some command"


def replace_by_link(folder, target):
    (folder / "a").rename(folder / "z")
    (folder / "a").symlink_to(folder / target)


CHANGES = {
    "changed since": lambda folder: (folder / "a").write_text("mine"),
    "not listed": lambda folder: (folder / "outputs.json").unlink(),
    "a list that is not ours": lambda folder: (folder / "outputs.json").write_text('{"a": 1}'),
    "a list that is no JSON": lambda folder: (folder / "outputs.json").write_text("{"),
    "a list nested too deep": lambda folder: (folder / "outputs.json").write_text("[" * 9000),
    "a link": lambda folder: replace_by_link(folder, "z"),
    "a link to nothing": lambda folder: replace_by_link(folder, "q"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_others_have_written_stays(tmp_path, change):
    write(tmp_path, "a", text="old")
    CHANGES[change](tmp_path)
    before = content_of(tmp_path)
    with pytest.raises(ValueError, match=r"exists and was not written by some command.*--force"):
        write(tmp_path, "a", "b")
    assert content_of(tmp_path) == before
    write(tmp_path, "a", "b", force=True)
    assert (tmp_path / "a").read_text() == "new"
    write(tmp_path, "b")


def files(folder):
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_another_command_is_another_writer(tmp_path):
    write(tmp_path, "a", text="old")
    with pytest.raises(ValueError, match="a exists and was not written by another command"):
        write(tmp_path, "a", command="another command")


def test_a_refusal_names_the_first_files(tmp_path):
    names = [f"file-{i}" for i in range(7)]
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="file-0, .*file-1, .*file-2 and 4 more exists"):
        write(tmp_path, "new", *names)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("by", ["name", "hard link", "link", "folder"])
def test_an_input_is_never_replaced(tmp_path, force, by):
    (tmp_path / "in").mkdir()
    given = tmp_path / "in" / "a.png"
    given.write_text("mine")
    output = given
    if by == "hard link":
        output = tmp_path / "b.png"
        output.hardlink_to(given)
    elif by == "link":
        output = tmp_path / "b.png"
        output.symlink_to(given)
    read = given.parent if by == "folder" else given
    with pytest.raises(ValueError, match="png would overwrite what the command reads"):
        write(output.parent, output.name, inputs=[read, None, "COCO_V1"], force=force)
    assert given.read_text() == "mine"


def test_what_was_written_before_an_error_is_listed(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        outputs.claim("some command", [tmp_path / "a", tmp_path / "b"]) as add,
    ):
        add(tmp_path / "a")
        (tmp_path / "a").write_text("half")
        add(tmp_path / "b")
        raise KeyboardInterrupt
    write(tmp_path, "a", "b")


def test_a_command_that_wrote_nothing_may_be_repeated(tmp_path):
    with contextlib.suppress(KeyboardInterrupt):
        with outputs.claim("some command", [tmp_path / "a"]) as add:
            add(tmp_path / "a")
            raise KeyboardInterrupt
    write(tmp_path, "a")
    assert (tmp_path / "a").read_text() == "new"


def test_predict_looks_at_its_directory_before_it_loads_weights(tmp_path, capsys):
    photograph = save(tmp_path / "a.png")
    for place in (photograph, photograph / "below"):
        command = ["predict", str(photograph), "--weights", str(tmp_path), "--output", str(place)]
        assert main(command) == 2
        assert f"--output {place} is a file, or is in one" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["gs://bucket/run", "s3://bucket", "file:///tmp/run"])
def test_an_address_becomes_no_folder(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"--workdir .*:/.* is an address: give a dir"):
        outputs.make_directory(Path(given), "--workdir")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_command_may_be_repeated(tmp_path):
    """A file that was being written has no digest; one that was not begun has no entry."""
    with pytest.raises(SystemExit), outputs.claim("some command", [tmp_path / "a"]) as add:
        add(tmp_path / "a", tmp_path / "b")
        (tmp_path / "a").write_text("half")
        before = (tmp_path / "outputs.json").read_text()
        raise SystemExit
    assert set(json.loads((tmp_path / "outputs.json").read_text())["files"]) == {"a"}
    (tmp_path / "outputs.json").write_text(before)  # As if nothing had run after the kill.
    (tmp_path / "a").write_text("half of it")
    with pytest.raises(ValueError, match="a exists"):
        write(tmp_path, "a", command="another command")
    write(tmp_path, "a")
    (tmp_path / "c").write_text("mine")
    with pytest.raises(ValueError, match="c exists"):
        write(tmp_path, "c")


# The commands.


def content_of(folder):
    return {path: path.read_bytes() for path in files(folder)}


def test_predict_leaves_a_mask_beside_a_photograph(predict, run_directory, tmp_path, capsys):  # noqa: F811
    """Users keep a.jpg and its hand-made mask a.png in one folder."""
    photo, mask = save(tmp_path / "in" / "a.jpg"), save(tmp_path / "in" / "a.png")
    before = content_of(photo.parent)
    for given, force in ((photo, []), (photo.parent, []), (photo.parent, ["--force"])):
        command = ["predict", str(given), "--weights", str(run_directory)]
        assert main([*command, "--output", str(photo.parent), *force]) == 2
        assert str(mask) in capsys.readouterr().err and content_of(photo.parent) == before


def test_predict_may_be_repeated_even_in_the_folder_of_its_images(run_directory, tmp_path):
    photo = save(tmp_path / "in" / "a.jpg")
    command = ["predict", str(photo.parent), "--weights", str(run_directory), "--output"]
    for _ in range(2):
        assert main([*command, str(photo.parent)]) == 0
    assert {path.name for path in photo.parent.iterdir()} == {
        "a.jpg",
        "a.png",
        "detections.json",
        "outputs.json",
    }


def test_predict_keeps_the_detections_of_an_evaluation(predict, run_directory, tmp_path, capsys):  # noqa: F811
    assert main(["evaluate", "--weights", str(run_directory)]) == 0
    before = (run_directory / "detections.json").read_bytes()
    command = ["predict", str(save(tmp_path / "a.png")), "--weights", str(run_directory)]
    assert main([*command, "--output", str(run_directory)]) == 2
    assert "detections.json exists and was not written by" in capsys.readouterr().err
    assert (run_directory / "detections.json").read_bytes() == before
    assert main(["evaluate", "--weights", str(run_directory)]) == 0  # It repeats its own.


def test_an_evaluation_of_other_weights_is_refused_before_the_work(run_directory, tmp_path, capsys):
    (run_directory / "evaluation.json").write_text("mine")
    assert main(["evaluate", "--weights", str(run_directory)]) == 2
    assert "evaluation.json exists" in capsys.readouterr().err
    assert not (run_directory / "detections.json").exists()
    assert main(["evaluate", "--weights", str(run_directory), "--force"]) == 0


def test_a_report_does_not_replace_a_page_of_others(run_directory, tmp_path, capsys):
    (tmp_path / "index.html").write_text("mine")
    command = ["evaluate", "--weights", str(run_directory), "--report"]
    assert main([*command, str(tmp_path / "index.html")]) == 2
    assert "index.html exists" in capsys.readouterr().err
    assert not (run_directory / "evaluation.json").exists()


@pytest.fixture
def annotated(tmp_path):
    """A folder of two images, 1.png and 2.png, with their annotations."""
    entries, objects = [], []
    for i in (1, 2):
        pixels = np.full((40, 60, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        entries.append({"id": i, "file_name": f"{i}.png", "height": 40, "width": 60})
        outline = [[5, 5, 25, 5, 25, 25, 5, 25]]
        found = {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20]}
        objects.append(found | {"segmentation": outline})
    content = {"images": entries, "annotations": objects}
    content["categories"] = [{"id": 1, "name": "disc"}]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_browse_leaves_the_images_it_draws(annotated, capsys, force):
    before = content_of(annotated)
    source = ["--images", str(annotated), "--annotations", str(annotated / "instances.json")]
    command = ["data", "browse", *source, "--separate", "--output", str(annotated), *force]
    assert main(command) == 2
    assert "1.png, " in capsys.readouterr().err and content_of(annotated) == before


def test_browse_may_be_repeated_and_leaves_the_pages_of_others(annotated, capsys):
    source = ["--images", str(annotated), "--annotations", str(annotated / "instances.json")]
    command = ["data", "browse", *source, "--output", str(annotated / "out")]
    assert main(command) == 0 and main(command) == 0
    (annotated / "out" / "page-001.png").write_text("mine")
    assert main(command) == 2
    assert (annotated / "out" / "page-001.png").read_text() == "mine"


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a device or a pipe: give the name of a file"):
        write(tmp_path, "pipe", force=True)


def test_a_list_that_cannot_be_written_hides_no_error(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(outputs.whole_files, "write_text", fail)
    with pytest.raises(ValueError, match="the first reason"):
        with outputs.claim("some command", [tmp_path / "a"]) as add:
            with contextlib.suppress(OSError):
                add(tmp_path / "a")
            raise ValueError("the first reason")
