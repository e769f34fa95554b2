"""Data sets in YOLO's format of segmentation."""

import pytest

from tests.data.formats.examples import box, convert, equal, photo

LINE = "1 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5"  # Of 40 x 60 pixels.
MASK = box(15, 10, 45, 20)

# A list that is doubled thirty times.
BOMB = "x0: &x0 [1, 1]\n" + "".join(f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]\n" for i in range(1, 31))


@pytest.fixture
def yolo(tmp_path):
    def written(labels, yaml="names: [fig, nut]\ntrain: images/train\n", folder="train"):
        top = tmp_path / "in"
        photo(top / "images" / folder / "a.png")
        path = top / "labels" / folder / "a.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(labels if isinstance(labels, bytes) else labels.encode())
        (top / "data.yaml").write_text(yaml, encoding="utf-8")
        return top

    return written


def test_outlines(yolo, tmp_path):
    second = "0 0 0 0.1 0 0.1 1 0 1"
    found, lines = convert(yolo(f"{LINE}\n{second}\n\n"), tmp_path)
    expected = {"nut": [MASK], "fig": [box(0, 0, 6, 40)]}
    assert equal(found, {"images/train/a.png": expected}) and lines == []


def test_splits_are_read_together_or_one_by_one(yolo, tmp_path):
    yaml = (
        "path: /nowhere\nnames: {0: fig, 1: nut}\ntrain: images/train\nval: [images/val]\ntest:\n"
    )
    yolo(LINE, yaml)
    top = yolo(LINE, yaml, folder="val")
    found, _ = convert(top, tmp_path)
    assert list(found) == ["images/train/a.png", "images/val/a.png"]
    found, _ = convert(top / "data.yaml", tmp_path, split="val")
    assert list(found) == ["images/val/a.png"]
    with pytest.raises(ValueError, match="has no test; it has train, val"):
        convert(top, tmp_path, split="test")


def test_the_folders_of_roboflow(tmp_path):
    top = tmp_path / "in"
    photo(top / "valid" / "images" / "a.png")
    (top / "valid" / "labels").mkdir()
    (top / "valid" / "labels" / "a.txt").write_text(LINE)
    (top / "data.yaml").write_text(
        "names: ['fig', '\u98df']\nnc: 2\nval: ../valid/images\n", "utf-8"
    )
    found, lines = convert(top, tmp_path)
    assert equal(found, {"valid/images/a.png": {"\u98df": [MASK]}}) and lines == []


BAD = {
    "whose class is none of the 2": "2" + LINE[1:],
    "class is none of": "-1" + LINE[1:],
    "whose class is": "nut" + LINE[1:],
    "are no fractions of the image": "1 15 10 45 10 45 20 15 20",
    "values that are no numbers": "1 0.25 nan 0.75 0.25 0.75 0.5",
    "whose outline has fewer than 3 points": "1",
    "fewer than 3": "1 0.5 0.5",
    "odd number of values": "1 0.25 0.25 0.75 0.25 0.75 0.5 0.25",
    "whose box has no area in the image": "1 0.5 0.5 0.2 0",
    "or that no image can have": "1 0.25 1e999 0.75 0.25 0.75 0.5",
    "whose class is none of the": "1" * 400 + LINE[1:],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_line_costs_itself(yolo, tmp_path, reason):
    found, lines = convert(yolo(f"{BAD[reason]}\r\n{LINE}"), tmp_path)
    assert equal(found, {"images/train/a.png": {"nut": [MASK]}})
    assert len(lines) == 1 and reason in lines[0] and "line 1 of a.txt" in lines[0]


def test_boxes_are_kept_and_counted(yolo, tmp_path):
    found, lines = convert(yolo(f"1 0.5 0.5 0.2 0.2\n{LINE}"), tmp_path)
    assert found["images/train/a.png"]["nut"][0] is None
    assert len(lines) == 1 and lines[0].startswith("objects with a box only")


def test_images_without_labels(yolo, tmp_path):
    top = yolo(b"\xef\xbb\xbf" + LINE.encode())  # With a byte order mark.
    photo(top / "images" / "train" / "b.png")
    photo(top / "images" / "train" / "c.png")
    (top / "labels" / "train" / "c.txt").write_bytes(b"1 \xff\xfe")
    found, lines = convert(top, tmp_path)
    assert [len(x) for x in found.values()] == [1, 0, 0]
    assert "files left out, which cannot be read: file c.txt" in lines
    assert any("without a file of labels" in x and x.endswith("images/train/b.png") for x in lines)


def test_numbers_of_classes_may_have_gaps(yolo, tmp_path):
    yaml = "names: {0: fig, 7: nut}\ntrain: images/train\n"
    found, lines = convert(yolo(f"{LINE}\n7{LINE[1:]}\n", yaml), tmp_path)
    assert equal(found, {"images/train/a.png": {"nut": [MASK]}})
    assert len(lines) == 1 and "whose class is none of the 2 in data.yaml" in lines[0]


def test_labels_that_are_no_text_in_utf_8(yolo, tmp_path):
    top = yolo(LINE.encode("utf-16"))
    photo(top / "images" / "train" / "b.png")
    (top / "labels" / "train" / "b.txt").mkdir()
    found, lines = convert(top, tmp_path)
    assert equal(found, {f"images/train/{name}.png": {} for name in "ab"})
    assert lines[0] == "files left out, which cannot be read: file a.txt"
    assert "without a file of labels" in lines[1] and lines[1].endswith("b.png")


@pytest.mark.parametrize(
    "yaml, message",
    [
        ("names: [a, b]\ntrain: ../../elsewhere\n", "there is no folder ../../elsewhere"),
        ("names: [a, b]\ntrain: /etc\n", "there is no folder /etc"),
        ("names: [a, b]\n", "has no train or val or valid or test; it has no split"),
        ("train: images/train\n", "expected a list of classes under names"),
        ("names: [a, a]\ntrain: images/train\n", "names have to differ"),
        ("names: {x: a}\ntrain: images/train\n", "names have to differ"),
        ("names: [a\n", "is no YAML"),
        ("names: !!python/object/apply:os.getcwd []\n", "is no YAML"),
        ("5\n", "expected names, and folders"),
        ("names: [yes, no]\ntrain: images/train\n", "put yes, no, on and off in quotes"),
        (f"{BOMB}names: *x30\ntrain: images/train\n", "names have to be text"),
        (f"{BOMB}names: [a, b]\ntrain: *x30\n", "expected folders as text"),
        (f"{BOMB}names: [a, b]\ntrain: images/train\npath: *x30", "expected folders as text"),
        (f"names: [a, b]\ntrain: {'x' * 3000}", "there is no folder xxx"),
    ],
)
def test_a_bad_yaml_is_refused(yolo, tmp_path, yaml, message):
    with pytest.raises(ValueError, match="data.yaml") as caught:
        convert(yolo(LINE, yaml), tmp_path)
    assert message in str(caught.value)
