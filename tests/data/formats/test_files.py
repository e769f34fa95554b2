"""The files of a folder, for the readers of formats."""

import json

from maskrcnn_jax.data.formats import files


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_folder_of_a_file_is_the_one_it_lies_in(tmp_path):
    touch(tmp_path, "a.json")
    assert files.folder(tmp_path) == files.folder(tmp_path / "a.json") == tmp_path


def test_files_below_a_folder_are_sorted_and_not_hidden(tmp_path):
    touch(tmp_path, "b/2.PNG", "b/1.png", "a/3.jpg", "c.png", "notes.txt", "b/.hidden.png")
    found = [path.relative_to(tmp_path).as_posix() for path in files.below(tmp_path, ".png")]
    assert found == ["c.png", "b/1.png", "b/2.PNG"]
    found = [path.name for path in files.below(tmp_path, ".png", ".jpg")]
    assert found == ["c.png", "3.jpg", "1.png", "2.PNG"]


def test_images_by_their_name_without_masks(tmp_path):
    touch(tmp_path, "images/a.b.jpg", "x.TIFF", "masks/x.png", "labels/a.b.txt")
    assert files.images_by_stem(tmp_path) == {"a.b": "images/a.b.jpg", "x": "x.TIFF"}


def test_the_first_json_files_decide(tmp_path):
    for i in range(30):
        (tmp_path / f"{i:02}.json").write_text(json.dumps({"number": i}))
    (tmp_path / "00.json").write_text("{")  # Broken ones count among the twenty.
    assert [x["number"] for x in files.first_json(tmp_path)] == list(range(1, 20))
    assert list(files.first_json(tmp_path / "29.json")) == [{"number": 29}]
    assert list(files.first_json(tmp_path / "00.json")) == []
