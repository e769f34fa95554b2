"""Collects faults of the entries of an annotation file, and warns once for each kind."""

import logging
import unicodedata
from collections.abc import Iterable
from typing import Any

_NUM_NAMED = 10  # A message about many entries names at most this many.
_MAX_NAME = 40  # Characters of a value in a message.
_MAX_ID = 100  # Characters of an id, which may be the name of a file and a place in it.
_MAX_NAMED = 500  # Characters of all ids in a message, but for the first one.
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

_logger = logging.getLogger(__name__)


class Findings:
    """Collects the ids of odd entries by kind. An entry counts once, under its first kind.

    A kind is a phrase in the plural, such as "annotations whose box is empty".
    """

    def __init__(self) -> None:
        self._ids: dict[str, dict[Any, None]] = {}
        self._known: set[tuple[str, Any]] = set()

    def add(self, kind: str, entry_id: Any, of: str = "annotation id") -> None:
        """Notes an entry.

        Args:
            kind: What is wrong, and what follows from it.
            entry_id: The id in the file, or the place of an entry without one.
            of: The words before it, such as "image id".
        """
        if (of, entry_id) in self._known:
            return
        self._known.add((of, entry_id))
        self._ids.setdefault(f"{kind}: {of}", {})[entry_id] = None

    def __bool__(self) -> bool:
        return bool(self._ids)

    def lines(self) -> list[str]:
        """One line for each kind: the number of entries, if several, and the first ids."""
        return [
            f"{len(ids)} {kind} {named(ids)}" if len(ids) > 1 else f"{kind} {named(ids)}"
            for kind, ids in self._ids.items()
        ]

    def report(self, path: Any, strict: bool = False) -> None:
        """Logs a warning for each kind.

        Args:
            path: The annotation file, named in each warning.
            strict: Whether to raise ValueError with all lines instead.
        """
        if strict and self:
            raise ValueError(f"{path}, read strictly: " + "; ".join(self.lines()))
        for line in self.lines():
            _logger.warning("%s: %s", path, line)


def named(ids: Iterable[Any]) -> str:
    """The first ids in one line."""
    ids = list(ids)
    shown: list[str] = []
    for name in (short(entry_id, _MAX_ID) for entry_id in ids[:_NUM_NAMED]):
        if shown and sum(map(len, shown)) + len(name) > _MAX_NAMED:
            break
        shown.append(name)
    return ", ".join(shown) + (", ..." if len(ids) > len(shown) else "")


def plain(text: str) -> str:
    """Text of others for a terminal: characters that steer it become question marks.

    These are control characters, but for line breaks and tabs, and marks that turn the direction of
    what follows.
    """
    return "".join("?" if _steers(letter) else letter for letter in text)


def plain_line(text: str) -> str:
    """`plain` text in one line, for a cell of a table: line breaks and tabs are question marks."""
    return plain(text).replace("\n", "?").replace("\t", "?")


def _steers(letter: str) -> bool:
    is_control = unicodedata.category(letter) == "Cc" and letter not in "\n\t"
    return is_control or letter in _DIRECTIONS


def short(value: Any, length: int = _MAX_NAME) -> str:
    """A value of the user's for a message, cut to a number of characters."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits.
        text = "a number of thousands of digits"
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"
