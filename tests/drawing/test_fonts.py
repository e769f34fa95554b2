"""Names in any script: a font that has the letters, or the number of the class and one warning."""

import numpy as np
import pytest

from maskrcnn_jax import visualize
from maskrcnn_jax.drawing import fonts

MISSING = "\U0010fffe"  # No font has this character.


@pytest.fixture(autouse=True)
def forget():
    for function in (fonts.load, fonts._warn_once, fonts._find, fonts._installed):
        function.cache_clear()
    yield
    for function in (fonts.load, fonts._warn_once, fonts._find, fonts._installed):
        function.cache_clear()


def draw(name):
    image = np.full((200, 300, 3), 128, np.uint8)
    return visualize.draw(image, np.array([[50, 50, 150, 150]]), [1], [0.9], None, [name])


def test_latin_names_take_the_usual_font():
    assert fonts.letters_of("nut [M6]") == frozenset()
    assert fonts._find(frozenset()) == ""


@pytest.mark.parametrize("name", ["枣", "орех " + MISSING])
def test_names_that_no_font_has_are_replaced_with_one_warning(monkeypatch, caplog, name):
    monkeypatch.setattr(fonts, "_FOLDERS", ())
    assert not fonts.can_draw(name)
    np.testing.assert_array_equal(draw(name), draw("class 1"))
    draw(name)
    assert sum("no font on this machine" in x.getMessage() for x in caplog.records) == 1


def test_a_font_that_is_named_is_taken(monkeypatch, tmp_path):
    installed = [x for x in fonts._installed() if "dejavusans" in x.lower()]
    if not installed:
        pytest.skip("no font with Cyrillic letters is installed")
    monkeypatch.setattr(fonts, "_FOLDERS", ())
    fonts._installed.cache_clear()
    monkeypatch.setenv(fonts.VARIABLE, installed[0])
    assert fonts._find(frozenset("\u0436")) == installed[0]  # Cyrillic.
    (tmp_path / "broken.ttf").write_text("no font")
    monkeypatch.setenv(fonts.VARIABLE, str(tmp_path / "broken.ttf"))
    for function in (fonts._find, fonts._installed):
        function.cache_clear()
    assert not fonts.can_draw(MISSING)


def test_letters_that_are_there_differ_from_missing_ones():
    assert fonts._has("", frozenset("xyz")) and not fonts._has("", frozenset(MISSING))
