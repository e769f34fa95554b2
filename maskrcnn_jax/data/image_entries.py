"""Reads the images of an annotation file: their ids, file names and sizes."""

from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from maskrcnn_jax.data.findings import Findings, short
from maskrcnn_jax.data.values import path_of, whole

_MAX_PIXELS = 2**31  # Run lengths of pycocotools have 32 bits.
_MAX_SIDE = 2**18  # pycocotools takes memory for each pixel along an outline.


class ImageIds:
    """Finds images by the ids that annotations give, which may be text where images have numbers.

    Attributes:
        own: The id of every image in the file by its number here.
    """

    def __init__(self, given: list[Any]) -> None:
        """Numbers the images.

        Args:
            given: The ids in the file. If all are different whole numbers of 32 bits, they stay;
                otherwise the images get the numbers 1, 2, ...
        """
        keys = [_key(value) for value in given]
        counts = Counter(keys)
        stay = len(counts) == len(keys) and all(map(_fits_batches, keys))
        self.numbers = keys if stay else list(range(1, len(keys) + 1))
        self._exact = {_exact(x): n for x, n in zip(given, self.numbers, strict=True)}
        pairs = zip(keys, self.numbers, strict=True)
        self._by_key = {key: n for key, n in pairs if counts[key] == 1}

    def find(self, value: Any) -> int | None:
        """The number of the image with this id; None if there is none."""
        key = _key(value)
        if key is None:
            return None
        return self._exact.get(_exact(value), self._by_key.get(key))


def _fits_batches(key: Any) -> bool:
    """Whether a key is a number of 32 bits, which the image ids of batches have."""
    return isinstance(key, int) and -(2**31) <= key < 2**31


def _exact(value: Any) -> tuple[bool, Any]:
    """An id as it is written: "01" and "1" and 1 are different."""
    return isinstance(value, str), value


def _key(value: Any) -> int | str | None:
    """The number that an id stands for; other text as it is; None if it cannot be an id."""
    found = whole(value)
    if found is None and isinstance(value, str | int) and not isinstance(value, bool):
        return value if value != "" else None
    return found


def read_images(
    entries: list[Any],
    size_of: Callable[[str], tuple[int, int]] | None,
    findings: Findings,
) -> tuple[list[dict[str, Any]], ImageIds]:
    """Reads the images of an annotation file.

    Args:
        entries: The list in the file.
        size_of: Gives height and width of an image file by its name.
        findings: Gets the ids of images that are left out.

    Returns:
        The images that can be used, with ``id``, ``file_name``, ``height`` and ``width``; and their
        ids.
    """
    found = [entry for entry in entries if isinstance(entry, dict)]
    for position in (i for i, entry in enumerate(entries, 1) if not isinstance(entry, dict)):
        findings.add("images left out, which are no objects with fields", position, "image id")
    found = _distinct([entry for entry in found if _has_id(entry, findings)], findings)
    read = [(entry, _read(entry, size_of, findings)) for entry in found]
    read = [(entry, fields) for entry, fields in read if fields is not None]
    ids = ImageIds([entry["id"] for entry, _ in read])
    images = []
    for (entry, fields), number in zip(read, ids.numbers, strict=True):
        fields["id"] = number
        if whole(entry["id"]) != number:
            fields["original_id"] = entry["id"]
        is_same = all(entry.get(name) is value for name, value in fields.items())
        images.append(entry if is_same else entry | fields)
    return images, ids


def _has_id(entry: dict[str, Any], findings: Findings) -> bool:
    if _key(entry.get("id")) is not None:
        return True
    findings.add(
        "images left out, whose id is neither a whole number nor text",
        short(entry.get("file_name", entry.get("id"))),
        "image id",
    )
    return False


def _distinct(entries: list[dict[str, Any]], findings: Findings) -> list[dict[str, Any]]:
    """Drops repetitions of images, and images that share an id: annotations could be of either."""
    files: dict[tuple[bool, Any], Any] = {}
    shared, kept = set(), []
    for entry in entries:
        own = _exact(entry["id"])
        if own not in files:
            files[own] = entry.get("file_name")
            kept.append(entry)
        elif files[own] != entry.get("file_name"):
            shared.add(own)
            kind = "images left out with their annotations, since several files share the id"
            findings.add(kind, entry["id"], "image id")
        else:
            findings.add("images that are listed twice; the first entry counts", own[1], "image id")
    return [entry for entry in kept if _exact(entry["id"]) not in shared]


def _file_name(entry: dict[str, Any]) -> str:
    """The name of the file, under the keys that tools use; empty if there is none."""
    for key in ("file_name", "filename", "path"):
        if isinstance(entry.get(key), str) and entry[key]:
            return entry[key]
    address = entry.get("coco_url")
    if not isinstance(address, str):
        return ""
    # LVIS has images of COCO's folders train2017 and val2017 in one file.
    parts = PurePosixPath(path_of(address).lstrip("/")).parts
    return str(PurePosixPath(*parts[-2:])) if parts else ""


def _read(
    entry: dict[str, Any],
    size_of: Callable[[str], tuple[int, int]] | None,
    findings: Findings,
) -> dict[str, Any] | None:
    """The name and size of an image, or None if one of them cannot be known."""
    name = _file_name(entry)
    if not name:
        return findings.add("images left out, which have no file_name", entry["id"], "image id")
    size = whole(entry.get("height")), whole(entry.get("width"))
    if None in size or min(size) < 1:
        try:
            size = (0, 0) if size_of is None else size_of(name)
        except (OSError, ValueError):
            size = 0, 0
        if min(size) < 1:
            kind = "images left out, which have no width and height, nor a file that tells them"
            return findings.add(kind, entry["id"], "image id")
    if size[0] * size[1] >= _MAX_PIXELS or max(size) > _MAX_SIDE:
        return findings.add(
            "images left out, whose size no image can have", entry["id"], "image id"
        )
    return {"file_name": name, "height": size[0], "width": size[1]}
