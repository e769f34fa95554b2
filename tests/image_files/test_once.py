"""Warnings about files, once for each kind."""

import pytest

from maskrcnn_jax.image_files import once


@pytest.fixture
def warned(caplog, monkeypatch):
    monkeypatch.setattr(once, "_warned", set())
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_first_file_is_named_and_no_other(warned):
    for name in ("a.png", "b.png"):
        once.warn("dark images", name)
    once.warn("several pages", "b.png")
    first = "dark images; the first one is a.png"
    assert warned() == [first, "several pages; the first one is b.png"]


def test_a_percent_sign_in_a_name_is_text(warned):
    once.warn("dark images", "100%s.png")
    assert warned() == ["dark images; the first one is 100%s.png"]
