"""Images that cannot be used are found before they are needed."""

import pytest

from maskrcnn_jax.data import checks
from tests.data.test_lost_images import Fading


class Checked(Fading):
    def check(self, index):
        self[index]


def test_all_bad_images_are_found():
    count = []
    bad = checks.find_bad(Checked([100, 103]), advance=count.append)
    assert bad == {100: "image id 100: gone", 103: "image id 103: gone"} and sum(count) == 5
    assert checks.find_bad(Fading([100])) == {}  # It has no files to look at.
    assert set(checks.find_bad(Fading([100]), whole=True)) == {100}


def test_more_than_half_is_another_mistake():
    bad = {i: f"image id {i}: gone" for i in range(7)}
    checks.check_few(bad, 14, "images of a.json")
    message = "7 of 13 images of a.json cannot be used: image id 0: gone; .*; and 4 more$"
    with pytest.raises(ValueError, match=message):
        checks.check_few(bad, 13, "images of a.json")


def test_reasons_of_any_number_of_images_stand_in_their_order():
    """The images are looked at in parts of about a thousand, by several threads."""

    class Many(Checked):
        def __init__(self, count):
            super().__init__()
            self.image_ids = range(count)

        def __len__(self):
            return len(self.image_ids)

        def check(self, index):
            if index % 3 == 0:
                raise ValueError(f"{index}")

    bad = checks.find_bad(Many(2500))
    assert list(bad.items()) == [(i, str(i)) for i in range(0, 2500, 3)]


def test_an_error_of_this_program_is_not_a_bad_image():
    class Broken(Checked):
        def check(self, index):
            raise TypeError("INTERNAL")

    with pytest.raises(TypeError, match="INTERNAL"):
        checks.find_bad(Broken())


def test_a_package_to_install_is_named_once():
    reasons = [f"{x}.tif needs it: pip install tifffile" for x in "ab"]
    reasons += ["c.avif needs it: pip install pillow-avif", "d.png: gone"]
    told = ["a.tif needs it: pip install tifffile", "b.tif needs it", *reasons[2:]]
    assert checks.advise_once(reasons) == told


def test_a_summary_has_three_reasons_in_one_line():
    bad = {i: f"{i} gone" for i in range(4)}
    assert checks.summary(bad) == "0 gone; 1 gone; 2 gone; and 1 more"
    del bad[3]
    assert checks.summary(bad) == "0 gone; 1 gone; 2 gone"
    assert checks.summary({1: "x" * 500}) == "x" * 400 + "... (500 characters)"


def test_only_data_sets_that_can_leave_images_out_do():
    class Leaving:
        def without(self, image_ids):
            return sorted(image_ids)

    plain, leaving = Fading(), Leaving()
    assert checks.without(leaving, iter([3, 1])) == [1, 3]
    assert checks.without(leaving, {}) is leaving and checks.without(plain, [1]) is plain
