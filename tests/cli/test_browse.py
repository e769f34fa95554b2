"""`maskrcnn-jax data browse` as a user calls it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main

GREY = 100


@pytest.fixture
def folder(tmp_path):
    """Grey images 1 to 14 of 40x50: 1 has a cat and a crowd, 2 a dog, 3 nothing, the rest a cat."""
    entries = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 50} for i in range(1, 15)]
    for entry in entries:
        Image.fromarray(np.full((40, 50, 3), GREY, np.uint8)).save(tmp_path / entry["file_name"])
    annotations = [found(i, i, 9 if i == 2 else 7) for i in range(1, 15) if i != 3]
    annotations.append(found(15, 1, 7, x=30) | {"iscrowd": 1})
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    write(tmp_path, {"images": entries, "annotations": annotations, "categories": categories})
    return tmp_path


def found(number, image_id, category_id, x=5):
    polygon = [x, 20, x + 15, 20, x + 15, 35, x, 35]
    box = [x, 20, 15, 15]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "segmentation": [polygon],
    }


def write(folder, content):
    (folder / "instances.json").write_text(json.dumps(content))


def browse(folder, *arguments):
    source = ["--images", str(folder), "--annotations", str(folder / "instances.json")]
    return main(
        ["data", "browse", *source, "--side", "100", "--output", str(folder / "out"), *arguments]
    )


def config(folder):
    """A config file for these images. Training resizes to 80 pixels, never crops, always flips."""
    lines = [
        "from maskrcnn_jax.config import Config",
        "def get_config():",
        "    config = Config()",
        f"    config.data.train_images = config.data.val_images = {str(folder)!r}",
        f"    annotations = {str(folder / 'instances.json')!r}",
        "    config.data.train_annotations = config.data.val_annotations = annotations",
        "    config.data.short_sides, config.data.horizontal_flip = (80,), 1.0",
        "    return config",
    ]
    (folder / "config.py").write_text("\n".join(lines))
    return [
        "data",
        "browse",
        "--config",
        str(folder / "config.py"),
        "--output",
        str(folder / "out"),
        "--side",
        "100",
    ]


def drawing(folder, name):
    return np.asarray(Image.open(folder / "out" / name))


def colored(pixels):
    return np.ptp(pixels.astype(int), axis=-1) > 20


def test_pages_hold_twelve_drawings(folder, capsys):
    assert browse(folder) == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "outputs.json",
        "page-001.png",
        "page-002.png",
    ]
    assert drawing(folder, "page-001.png").shape[1] == 4 * 100 + 5 * 4
    assert drawing(folder, "page-002.png").shape[1] == 2 * 100 + 3 * 4
    assert "14 of 14 images are drawn in" in capsys.readouterr().out


def test_the_summary_says_what_may_be_wrong(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"].append(found(16, 4, 7, x=30))
    write(folder, content)
    assert browse(folder, "--count", "1", "--set", "data.max_instances=1") == 0
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert ["cat", "7", "13", "12"] in lines and ["dog", "9", "1", "1"] in lines
    assert ["crowds, not trained on", "1"] in lines and [
        "images without objects",
        "1: id 3",
    ] in lines
    assert any(line[:1] == ["images with more than 1 objects, 1 too many"] for line in lines)


def test_a_file_for_each_image(folder):
    assert browse(folder, "--separate", "--image-id", "2", "3") == 0
    assert sorted(path.name for path in (folder / "out").glob("*.png")) == ["2.png", "3.png"]
    with_object, without = drawing(folder, "2.png"), drawing(folder, "3.png")
    assert with_object.shape == without.shape
    assert colored(with_object).any() and not colored(without).any()


def test_crowds_are_hatched(folder):
    assert browse(folder, "--separate", "--image-id", "1", "4") == 0
    crowd, plain = drawing(folder, "1.png").astype(int), drawing(folder, "4.png").astype(int)
    region = np.abs(crowd - plain)[-38:-12, -38:-14]  # The crowd is at the lower right.
    assert region.max() > 60 and not colored(crowd[-38:-12, -38:-14]).any()


def test_only_images_of_a_category(folder):
    assert browse(folder, "--separate", "--category", "dog") == 0
    assert [path.name for path in (folder / "out").glob("*.png")] == ["2.png"]


def test_views_of_training_are_beside_the_image(folder):
    assert main([*config(folder), "--augmented", "--separate", "--image-id", "2"]) == 0
    page = drawing(folder, "2.png")
    cells = [page[:, 4 + i * 104 : 104 + i * 104] for i in range(4)]
    assert page.shape[1] == 4 * 100 + 5 * 4
    # The object is at the left of the image, and at the right of every view, which is flipped.
    lower = [colored(cell[-50:-12]) for cell in cells]
    assert lower[0][:, 10:40].mean() > 0.8 and lower[0][:, 60:90].mean() == 0
    for view in lower[1:]:
        assert view[:, 60:90].mean() > 0.8 and view[:, 10:40].mean() == 0


def test_objects_that_views_lose_are_counted(folder, capsys):
    # All objects are at the same place: a pasted one hides the one below it.
    paste = ["--set", "data.copy_paste=1.0"]
    assert main([*config(folder), "--augmented", "--image-id", "4", *paste]) == 0
    assert "3 objects were cut off or hidden in 3 views" in capsys.readouterr().out


def test_training_leaves_out_images_without_objects(folder, capsys):
    assert main([*config(folder), "--count", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 of 13 images" in out and "images without objects, not trained on" in out
    assert main([*config(folder), "--count", "2", "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert "2 of 14 images" in out and "objects, not trained on" not in out


def test_an_unreadable_image_does_not_stop_the_rest(folder, capsys):
    (folder / "2.png").write_text("no image")
    Image.new("RGB", (9, 8)).save(folder / "4.png")
    assert browse(folder, "--separate") == 1
    captured = capsys.readouterr()
    assert "12 of 14 images are drawn" in captured.out
    assert (
        "image id 2: cannot read the image" in captured.err
        and "4.png (image id 4) is 8x9" in captured.err
    )
    assert len(list((folder / "out").glob("*.png"))) == 12


def test_a_broken_crowd_is_named(folder, caplog):
    content = json.loads((folder / "instances.json").read_text())
    for mask in ({"size": [40, 50], "counts": [5]}, {"counts": "x"}, [[1]], 5):
        content["annotations"][-1]["segmentation"] = mask
        write(folder, content)
        caplog.clear()
        assert browse(folder, "--image-id", "1") == 0
        assert re.search(r"instances\.json: annotations without.*: annotation id 15", caplog.text)


def test_crowds_without_a_mask_are_counted_in_either_split(folder, capsys):
    content = json.loads((folder / "instances.json").read_text())
    del content["annotations"][-1]["segmentation"]
    write(folder, content)
    for split in ("train", "val"):
        assert browse(folder, "--count", "1", "--split", split) == 0
        (line,) = [
            line
            for line in capsys.readouterr().out.splitlines()
            if "crowds, not trained on" in line
        ]
        assert "1" in line


def test_objects_without_a_mask_are_counted(folder, capsys):
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = []
    write(folder, content)
    assert browse(folder, "--count", "1") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "without a mask" in line]
    assert f"id {content['annotations'][0]['id']}" in line


def test_all_categories_of_a_name_are_drawn(folder):
    content = json.loads((folder / "instances.json").read_text())
    content["categories"].append({"id": 11, "name": "dog"})
    content["annotations"].append(found(16, 3, 11))
    write(folder, content)
    assert browse(folder, "--separate", "--category", "dog") == 0
    assert sorted(path.name for path in (folder / "out").glob("*.png")) == ["2.png", "3.png"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--image-id", "99"], "no image has the id 99"),
        (["--category", "cow"], "no category is called 'cow'; there are cat, dog"),
        (
            ["--config", "config.py"],
            "give either --config FILE, or --images DIR and --annotations JSON",
        ),
        (["--split", "val", "--augmented"], "--augmented shows the images of training"),
        (["--set", "data.nothing=1"], "names no field of the config"),
        (["--annotations", "nowhere.json"], "there is no annotation file nowhere.json"),
    ],
)
def test_mistakes_in_the_call(folder, capsys, arguments, message):
    assert browse(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("maskrcnn-jax data:") and error.count("\n") == 1


def test_neither_a_config_nor_images(folder, capsys):
    assert main(["data", "browse", "--output", str(folder / "out")]) == 2
    assert "give either --config FILE" in capsys.readouterr().err


def test_three_channels_are_chosen(folder, capsys):
    """Channel 4 is bright in the right half; the object hides little of it."""
    content = json.loads((folder / "instances.json").read_text())
    content["images"] = content["images"][2:3]
    content["annotations"] = []
    pixels = np.zeros((40, 50, 5), np.float32)
    pixels[:, 25:, 4] = 7000
    np.save(folder / "3.npy", pixels)
    content["images"][0]["file_name"] = "3.npy"
    write(folder, content)
    for shown, color in (("(4, 0, 1)", [255, 0, 0]), ("(4,)", [255] * 3), ("()", [0] * 3)):
        options = ["--separate", "--force", "--set", f"data.shown_channels={shown}"]
        assert browse(folder, *options, "--augmented") == 0
        drawn = np.asarray(Image.open(folder / "out" / "3.png"))
        assert np.abs(drawn[-20, 90].astype(int) - color).max() < 8, shown
    assert browse(folder, "--force", "--set", "data.shown_channels=(5,)") == 2
    assert "data.shown_channels must be empty, one or three channels" in capsys.readouterr().err
