"""The input files of a command: names, folders and patterns."""

import pytest

from maskrcnn_jax.cli import inputs, outputs
from tests.cli.test_predict import save


def test_folders_and_patterns(tmp_path):
    names = ("b.JPG", "a.png", "sub/c.jpeg", "sub/d.png", ".hidden.png")
    b, a, c, d, _ = (save(tmp_path / "in" / name) for name in names)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert inputs.expand([str(tmp_path / "in")]) == [a, b]
    assert inputs.expand([f"{tmp_path}/in/**/*.png"]) == [a, d]
    assert inputs.expand([f"{tmp_path}/in/*"]) == [a, b, tmp_path / "in" / "notes.txt"]
    assert inputs.expand([str(c), str(tmp_path / "in" / "sub")]) == [c, c, d]
    odd = save(tmp_path / "[1].png")
    assert inputs.expand([str(odd)]) == [odd]


def test_a_folder_without_its_own_drawings(tmp_path):
    a, b = tmp_path / "a.png", save(tmp_path / "b.png")
    with outputs.claim("maskrcnn-jax predict", [a]) as add:
        add(a)
        save(a)
    assert inputs.expand([str(tmp_path)]) == [b]
    assert inputs.expand([str(a)]) == [a]  # By its name it is an input like any other.


def test_files_without_a_suffix_are_images_if_they_begin_like_one(tmp_path):
    (tmp_path / "photo").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "notes").write_text("no image")
    (tmp_path / "folder").mkdir()
    assert inputs.expand([str(tmp_path)]) == [tmp_path / "photo"]


def test_images_that_cannot_be_read_are_not_skipped(tmp_path):
    for name in ("a.heic", "b.NEF", "c.npy", "d.mp4", "e.txt", "f.pdf"):
        (tmp_path / name).touch()
    found = inputs.expand([str(tmp_path)])
    assert [path.name for path in found] == ["a.heic", "b.NEF", "c.npy", "d.mp4"]
    assert [inputs.is_video(path) for path in found] == [False, False, False, True]


def test_all_that_is_missing_is_named_once(tmp_path):
    names = [str(save(tmp_path / "a.png")), "none.png", f"{tmp_path}/no*.jpg"]
    with pytest.raises(FileNotFoundError) as raised:
        inputs.expand(names)
    assert str(raised.value).endswith(f"match for none.png, {tmp_path}/no*.jpg")
    with pytest.raises(FileNotFoundError, match="match for https://a/b.png: download what has"):
        inputs.expand(["https://a/b.png"])


def test_a_folder_without_images_is_refused(tmp_path):
    save(tmp_path / "sub" / "a.png")
    with pytest.raises(ValueError, match=r"for its subfolders, give '.*/\*\*/\*.jpg'"):
        inputs.expand([str(tmp_path)])
