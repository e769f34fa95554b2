"""Reads the JSON of annotation files, and says what another file is."""

import json
from pathlib import Path
from typing import Any

from maskrcnn_jax.data.findings import short

_KINDS = {
    b"PK\x03\x04": "a zip archive: unpack it, and give the json file in it",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"<?xml": "XML, such as the boxes of Pascal VOC: convert it to COCO's format",
    b"<": "XML or a web page: convert it to COCO's format, or download the file itself",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself (git lfs pull)",
}
_CONVERT = "maskrcnn-jax data convert FROM OUT.json"
_EXPECTED = "expected an object with images, annotations and categories"


def load(path: Path) -> dict[str, Any]:
    """Reads an annotation file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not in COCO's format; the message says what it seems to be.
    """
    content = read(path)
    _check_shape(path, content)
    return content


def read(path: Path) -> Any:
    """Reads a JSON file. Raises FileNotFoundError or ValueError; the message names the file."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no annotation file {path}") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{path} is a folder: give the json file in it") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to hold annotations") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def parse(content: bytes) -> Any:
    """Parses the bytes of a JSON file, with or without a byte order mark.

    Raises ValueError if it is no text or no JSON.
    """
    if not content.strip():
        raise ValueError("is empty")
    for start, kind in _KINDS.items():
        if content.lstrip()[: len(start)].lower() == start.lower():
            raise ValueError(f"is {kind}")
    has_utf16_mark = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if has_utf16_mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not a text file: {error}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python refuses integers of thousands of digits; NaN stands for them.
        return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 400 else float("nan")


def _check_shape(path: Path, content: Any) -> None:
    """Raises ValueError unless there are lists of images, annotations and categories."""
    if isinstance(content, list) and content and isinstance(content[0], dict):
        if "score" in content[0]:
            raise ValueError(f"{path} holds detections, not annotations: {_EXPECTED}")
        if "data" in content[0]:
            raise ValueError(f"{path} is Label Studio's own format: export COCO there; {_EXPECTED}")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {_EXPECTED}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            kind = f", got {short(content[key])}" if key in content else _other(content)
            raise ValueError(f"{path}: expected a list under the key {key!r}{kind}")


def _other(content: dict[str, Any]) -> str:
    """Guesses the tool that wrote a file in another format, and says how to convert it."""
    if "shapes" in content and "imagePath" in content:
        return f"; this is LabelMe's format of one image: convert the folder, {_CONVERT}"
    if any(str(key).startswith("_via") for key in content):
        return f"; this is VIA's format: convert the file, {_CONVERT}"
    if content.get("type") == "FeatureCollection":
        return "; this is GeoJSON, in map coordinates: convert it to pixels, in COCO's format"
    keys = ", ".join(short(key, 20) for key in list(content)[:8])
    return f"; the file has {keys}" if keys else "; the file is empty"
