"""Names of image files in other notations than those of the files."""

import os

import pytest

from maskrcnn_jax.data.image_folder import ImageFolder


@pytest.mark.parametrize(
    "name, file",
    [
        ("images\\a.jpg", "a.jpg"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("/other/place/a.jpg", "a.jpg"),
        ("a.JPG", "a.jpg"),
        ("A.jpg", "a.jpg"),
        ("a.jpeg", "a.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("Fru\u0308chte.jpg", "Fr\u00fcchte.jpg"),
        ("Fr\u00fcchte.jpg", "Fru\u0308chte.jpg"),
        ("a.jpg", "sub/a.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("./a.jpg", "a.jpg"),
        (" a.jpg\n", "a.jpg"),
        ("https://host/photos/a.jpg?token=1#x", "a.jpg"),
        ("http://[::1/a.jpg", "a.jpg"),
        ("s3://bucket/sub/a%20b.jpg", "a b.jpg"),
    ],
)
def test_a_name_in_another_notation_is_found(tmp_path, name, file):
    (tmp_path / "sub").mkdir()
    (tmp_path / file).write_text("")
    assert ImageFolder(tmp_path).path(name).samefile(tmp_path / file)


def test_threads_look_in_a_whole_index(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_text("")
    (tmp_path / "b.jpg").write_text("")
    folder, walk, found = ImageFolder(tmp_path), os.walk, []

    def walk_while_another_looks(top):
        monkeypatch.setattr(os, "walk", walk)
        found.append(folder.path("images\\b.jpg"))
        return walk(top)

    monkeypatch.setattr(os, "walk", walk_while_another_looks)
    assert folder.path("images\\a.jpg") == tmp_path / "a.jpg"
    assert found == [tmp_path / "b.jpg"]


def test_a_name_that_may_be_two_files_is_not_guessed(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_text("")
    folder = ImageFolder(tmp_path)
    assert folder.path("a.JPG") == tmp_path / "a.JPG"
    assert folder.suggestions("a.JPG") == ["x/a.jpg", "y/a.jpg"]
    assert folder.path("Y\\a.jpg") == tmp_path / "y" / "a.jpg"
    (tmp_path / "tree.png").write_text("")
    assert ImageFolder(tmp_path).suggestions("treee.png") == ["tree.png"]
    assert ImageFolder(tmp_path).suggestions("photos/Tree") == ["tree.png"]
    assert ImageFolder(tmp_path).suggestions("tree.tif") == ["tree.png"]


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "{}/secret.png"])
def test_a_name_does_not_lead_out_of_the_folder(tmp_path, name):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_text("")
    folder = ImageFolder(tmp_path / "photos")
    with pytest.raises(OSError, match="leads out of the folder"):
        folder.path(name.format(tmp_path))
    (tmp_path / "photos" / "secret.png").write_text("")  # Then this is meant.
    found = ImageFolder(tmp_path / "photos").path(name.format(tmp_path))
    assert found == tmp_path / "photos" / "secret.png"


def test_absolute_names_and_links_inside_of_the_folder_are_followed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere.png").write_text("")
    (tmp_path / "photos" / "a.png").symlink_to(tmp_path / "elsewhere.png")
    folder = ImageFolder(tmp_path / "photos")
    for name in ("a.png", str(tmp_path / "photos" / "a.png"), "sub/../a.png"):
        assert folder.path(name).samefile(tmp_path / "elsewhere.png")
