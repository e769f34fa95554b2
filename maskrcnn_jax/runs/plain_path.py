"""A directory under a path that Orbax can read: short, and without characters of patterns.

Orbax finds its files by patterns (glob) over whole paths. In ``runs/night[1]`` such a pattern
matches nothing, so checkpoints would be written and never be found again. A symbolic link in the
temporary folder gives such a directory another path.
"""

import glob
import os
import tempfile
from pathlib import Path

# Orbax adds up to 200 characters below the directory, and Linux allows 4095 in all.
_MAX_LENGTH = 3500


class PlainPath:
    """The absolute path of a directory, or a link to it if Orbax could not use its own path.

    Attributes:
        path: The path to give to Orbax.
    """

    def __init__(self, directory: Path) -> None:
        """Makes a link if one is needed.

        Raises:
            ValueError: The path is not valid Unicode, or the temporary folder has such a path too.
        """
        self._directory, self._folder = directory.absolute(), None
        # Tensorstore refuses paths with "..".
        has_dots = ".." in self._directory.parts
        self.path = self._directory.resolve() if has_dots else self._directory
        try:
            length = len(str(self.path).encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"{directory!r} is not valid Unicode: use another name") from error
        if length <= _MAX_LENGTH and not _has_magic(self.path):
            return
        self._folder = tempfile.TemporaryDirectory(prefix="maskrcnn-jax-")
        if _has_magic(self._folder.name):
            self.close()
            raise ValueError(
                f"checkpoints cannot be kept in {directory}, whose path has one of the characters "
                f"*, ?, [ and \\, nor through a link in {tempfile.gettempdir()}: use another name"
            )
        self.path = Path(self._folder.name) / "run"
        os.symlink(self._directory, self.path, target_is_directory=True)

    def named(self, text: str) -> str:
        """Puts the path that the user knows into a message of Orbax."""
        return text.replace(str(self.path), str(self._directory))

    def close(self) -> None:
        """Removes the link."""
        if self._folder is not None:
            self._folder.cleanup()


def _has_magic(path: str | Path) -> bool:
    """Whether a path has characters of patterns; a backslash takes their meaning from others."""
    return glob.has_magic(str(path)) or "\\" in str(path)
