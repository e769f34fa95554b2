"""Finds the image files of an annotation file, which may write their names in another notation."""

import difflib
import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote

from maskrcnn_jax.data.findings import short
from maskrcnn_jax.data.values import path_of

_NUM_SUGGESTED = 3


class ImageFolder:
    """The files of a folder by name.

    A name that no file has is compared without regard to notation: backslashes, percent signs, the
    composition of Unicode letters, upper and lower case, the form of the suffix, spaces around it,
    and leading folders. Of an address, its path counts. A name stands for a file if only one fits.
    Names come from annotation files of others: none leads out of the folder, but symbolic links in
    the folder are followed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, Path] = {}
        self._index: dict[str, list[str]] | None = None  # File names by plain name; made late.

    def path(self, name: str) -> Path:
        """The file of a name; the path of the name itself if there is none.

        Raises OSError if the name leads out of the folder, and no file in it has such a name.
        """
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def renamed(self, names: list[str]) -> list[str]:
        """Those of the names whose file is written otherwise."""
        return [name for name in names if self.path(name) != self.folder / name]

    def suggestions(self, name: str) -> list[str]:
        """Names of files that may be meant."""
        index = self._indexed()
        same = index.get(_plain(name), [])
        if same:
            return same[:_NUM_SUGGESTED]
        known = list(index)[:2000]
        stem = os.path.splitext(_plain(name))[0]
        if same := [plain for plain in known if os.path.splitext(plain)[0] == stem]:
            return [index[plain][0] for plain in same[:_NUM_SUGGESTED]]
        close = difflib.get_close_matches(_plain(name), known, _NUM_SUGGESTED, cutoff=0.8)
        return [index[plain][0] for plain in close]

    def _find(self, name: str) -> Path:
        exact, is_inside = self.folder / name, self._is_inside(name)
        if is_inside and (_is_file(exact) or not self.folder.is_dir()):
            return exact
        candidates = self._indexed().get(_plain(name), [])
        if len(candidates) > 1:  # The folders of the name decide.
            wanted = _steps(name)
            candidates = [x for x in candidates if _steps(x)[-len(wanted) :] == wanted]
        if len(candidates) != 1 and not is_inside:
            raise OSError(f"the name {short(name, 100)} leads out of the folder {self.folder}")
        return self.folder / candidates[0] if len(candidates) == 1 else exact

    def _is_inside(self, name: str) -> bool:
        if os.path.basename(name) == name:  # As in most data sets: there is no step to follow.
            return name != ".."
        folder = os.path.abspath(self.folder)
        path = os.path.normpath(os.path.join(folder, name))
        return os.path.commonpath([folder, path]) == folder

    def _indexed(self) -> dict[str, list[str]]:
        if self._index is None:
            index: dict[str, list[str]] = {}
            for folder, _, names in os.walk(self.folder):
                below = os.path.relpath(folder, self.folder)
                for name in sorted(names):
                    path = name if below == "." else os.path.join(below, name)
                    index.setdefault(_plain(name), []).append(path)
            self._index = index  # Whole, since other threads read it meanwhile.
        return self._index


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # A name that is too long, or has a zero character.
        return False


def _steps(name: str) -> list[str]:
    """The folders and the file name of a path, in one notation."""
    if "://" in name:  # The address of a file, which may end in a question.
        name = path_of(name)
    name = unicodedata.normalize("NFC", unquote(name)).strip().replace("\\", "/").casefold()
    return [step for step in name.split("/") if step not in ("", ".")]


def _plain(name: str) -> str:
    """A file name without folders and notation."""
    steps = _steps(name)
    last = steps[-1] if steps else ""
    return f"{last.removesuffix('.jpeg')}.jpg" if last.endswith(".jpeg") else last
