"""Finds a font that has the letters of a name: Pillow's own font knows Latin letters only."""

import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

VARIABLE = "MASKRCNN_JAX_FONT"  # The environment variable that names a font file.
_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
# Words in the names of fonts with many scripts; these are tried first.
_WIDE = ("cjk", "unicode", "fallback", "wqy", "uming", "gothic", "noto", "dejavusans", "arial")
_MOST_FONTS = 300
_MISSING = "\U0010ffff"  # No font has this character, so its picture is that of missing ones.
_SIDE = 24  # Pixels of the letters that are compared.

_logger = logging.getLogger(__name__)


@functools.cache
def load(letters: frozenset[str], size: int) -> Font:
    """Returns a font of a size in pixels that has some letters; Pillow's own if no font has."""
    path = _find(letters)
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size=size)


def can_draw(text: str) -> bool:
    """Whether a font on this machine has all letters of a text."""
    return _find(letters_of(text)) is not None


def letters_of(text: str) -> frozenset[str]:
    """The letters of a text that Pillow's own font may lack."""
    return frozenset(letter for letter in text if ord(letter) > 126)


def legible(name: str, label: int) -> str:
    """The name of a class, or "class 3" if no font has its letters, with one warning."""
    if can_draw(name):
        return name
    _warn_once()
    return f"class {label}"


@functools.cache
def _warn_once() -> None:
    _logger.warning(
        "no font on this machine has the letters of all names, so pictures show numbers of classes "
        "instead: install one, such as fonts-noto-cjk, or name a font file in %s",
        VARIABLE,
    )


@functools.cache
def _find(letters: frozenset[str]) -> str | None:
    """The path of a font that has the letters; empty for Pillow's own, None if there is none."""
    if not letters:
        return ""
    return next((path for path in ("", *_installed()) if _has(path, letters)), None)


def _has(path: str, letters: frozenset[str]) -> bool:
    """Whether a font, of which `_find` tells the meaning of the path, has some letters."""
    font, unknown = _opened(path)
    if font is None:
        return False
    return all(letter.isspace() or _picture(font, letter) != unknown for letter in letters)


@functools.cache
def _opened(path: str) -> tuple[Font | None, bytes]:
    """A font, and its picture of a letter that it lacks; None if FreeType does not know it."""
    try:
        font = ImageFont.truetype(path, _SIDE) if path else ImageFont.load_default(size=_SIDE)
    except (OSError, ValueError):
        return None, b""
    return font, _picture(font, _MISSING)


def _picture(font: Font, letter: str) -> bytes:
    image = Image.new("L", (2 * _SIDE, 2 * _SIDE))
    ImageDraw.Draw(image).text((4, 4), letter, fill=255, font=font)
    return image.tobytes()


@functools.cache
def _installed() -> tuple[str, ...]:
    """The font files of this machine, those with many scripts first."""
    chosen = os.environ.get(VARIABLE)
    found = []
    for folder in _FOLDERS:
        found += _below(Path(folder).expanduser())
    found.sort(key=lambda path: (_rank(path), path))
    return ((chosen,) if chosen else ()) + tuple(found[:_MOST_FONTS])


def _below(folder: Path) -> Iterator[str]:
    for path, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith((".ttf", ".otf", ".ttc")):
                yield os.path.join(path, name)


def _rank(path: str) -> int:
    name = os.path.basename(path).lower()
    return next((i for i, word in enumerate(_WIDE) if word in name), sys.maxsize)
