"""Splits of annotation files are random and lose nothing."""

import pytest

from maskrcnn_jax.data import splitting


def annotations(num_images):
    """Makes annotations where image 10 i has i objects of category i % 2."""
    objects = [(image, 10 * image) for image in range(num_images) for _ in range(image)]
    return {
        "info": {"year": 2026},
        "images": [{"id": 10 * i, "file_name": f"{i}.jpg"} for i in range(num_images)],
        "categories": [{"id": 0, "name": "even"}, {"id": 1, "name": "odd"}],
        "annotations": [
            {"id": i, "image_id": image_id, "category_id": image % 2}
            for i, (image, image_id) in enumerate(objects)
        ],
    }


def ids(part):
    return {entry["id"] for entry in part["images"]}


@pytest.mark.parametrize(
    "num_images, fraction, held_out",
    [(10, 0.2, 2), (10, 0.26, 3), (18, 0.3, 5), (5, 0.0, 1), (5, 1.0, 4), (2, 0.9, 1)],
)
def test_every_image_is_in_one_part_with_all_its_objects(num_images, fraction, held_out):
    whole = annotations(num_images)
    train, val = splitting.split(whole, fraction)
    assert (
        len(val["images"]) == held_out
        and ids(train) | ids(val) == ids(whole)
        and not ids(train) & ids(val)
    )
    for part in (train, val):
        assert part["categories"] == whole["categories"] and part["info"] == whole["info"]
        assert [a for a in whole["annotations"] if a["image_id"] in ids(part)] == part[
            "annotations"
        ]


def test_the_draw_depends_on_the_seed_not_on_the_order():
    whole = annotations(20)
    backwards = whole | {"images": whole["images"][::-1]}
    assert ids(splitting.split(whole, 0.3)[1]) == ids(splitting.split(backwards, 0.3)[1])
    assert len({frozenset(ids(splitting.split(whole, 0.3, seed)[1])) for seed in range(5)}) == 5


def test_one_image_cannot_be_divided():
    with pytest.raises(ValueError, match="1 images cannot be divided"):
        splitting.split(annotations(1), 0.5)


def test_crowds_are_not_counted():
    whole = annotations(4)  # Images with 0, 1, 2 and 3 objects.
    whole["annotations"][0]["iscrowd"] = 1
    assert [splitting.count(whole, category_id) for category_id in (0, 1, 2)] == [2, 3, 0]


def test_copies_and_links_are_one_photograph(tmp_path):
    for i, content in enumerate((b"one", b"two", b"one", b"other")):
        (tmp_path / f"{i}.jpg").write_bytes(content)
    (tmp_path / "4.jpg").symlink_to("3.jpg")
    same = splitting.photographs({10 * i: tmp_path / f"{i}.jpg" for i in range(5)})
    assert same == {0: 0, 10: 10, 20: 0, 30: 30, 40: 30}
    for seed in range(8):
        train, val = splitting.split(annotations(5), 0.4, seed, same)
        for pair in ({0, 20}, {30, 40}):
            assert pair <= ids(train) or pair <= ids(val)
