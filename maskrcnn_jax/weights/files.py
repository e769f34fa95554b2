"""Weight files: arrays by name, and text that travels with them.

A file may come from anywhere. It is recognised by its content, nothing in it is executed, and every size it declares
is compared with the bytes that are there before memory is taken. See `pytorch_zip`, `pytorch_legacy`, `npz` for the
formats read here; safetensors are read by their own library.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from maskrcnn_jax.weights import npz, pytorch_legacy, pytorch_zip, zip_records

DTYPES = {
    np.dtype(kind)
    for kind in (
        *(np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.bool_),
        *(np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8),
    )
}
SUFFIXES = (".npz", ".pth", ".safetensors")
FOREIGN = {  # What other files begin with.
    b"": "is empty",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"\x89PNG": "is a PNG picture",
    b"\x89HDF": "is an HDF5 file",
    b"\x1f\x8b": "is packed with gzip",
    b"<": "is an HTML or XML page; was the address right?",
}
MAX_SAFETENSORS_HEADER = 100_000_000  # As in the library.


class WeightFile(NamedTuple):
    """What a file holds. Arrays may be read-only, and share memory where the file's tensors do."""

    arrays: dict[str, np.ndarray]  # In the order of the file.
    metadata: dict[str, str]  # Empty where the file says nothing.


def read(path: str | Path) -> WeightFile:
    """Reads a state dict of PyTorch (zip or legacy format), safetensors, or a NumPy archive.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not such a file, or a damaged or dishonest one; the message names it and says what was found.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weight file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is a directory or device, expected a weight file")
    try:
        with path.open("rb") as file:
            weights = _read(file, path)
        for name, array in weights.arrays.items():
            if array.dtype not in DTYPES:
                raise ValueError(f"{name} is an array of {array.dtype}, expected real numbers or booleans")
        return weights
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from error


def _read(file: BinaryIO, path: Path) -> WeightFile:
    start = file.read(24)
    file.seek(0)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        records = zip_records.directory(file)
        kind = pytorch_zip if any(name.endswith(pytorch_zip.PICKLE) for name in records) else npz
        return WeightFile(*kind.read(file, records))
    # Before the legacy format, since the length of the header may look like the first instruction of a pickle.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return _read_safetensors(path)
    if start.startswith(b"\x80"):
        return WeightFile(pytorch_legacy.read(file), {})
    found = next((text for magic, text in FOREIGN.items() if magic and start.startswith(magic)), None)
    if found is None:
        found = f"begins with {start!r}" if start else FOREIGN[b""]
    raise ValueError(f"it {found}; expected a state dict of PyTorch, safetensors or a NumPy archive")


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.offset_keys()}
            return WeightFile(arrays, file.metadata() or {})
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:  # The latter two: dtypes NumPy lacks.
        raise ValueError(f"not a good safetensors file: {error}") from error


def write(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays in the format that the suffix names: .npz (ours), .pth (PyTorch) or .safetensors.

    A file that was there is replaced at once, when the new one is complete. PyTorch reads the ``.pth`` with
    ``torch.load(path, weights_only=True)``.

    Raises:
        ValueError: Another suffix, metadata that is not text, or a dtype that the format cannot hold.
    """
    path, text = Path(path), dict(metadata or {})
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    if not all(isinstance(part, str) for item in text.items() for part in item):
        raise ValueError(f"metadata is text by key, got {text}")
    ready = {name: _plain(name, array) for name, array in arrays.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.suffix == ".safetensors":
            save_file(ready, partial, metadata=text or None)  # An empty dict makes a bad file of no arrays.
        else:
            kind = pytorch_zip if path.suffix == ".pth" else npz
            with partial.open("wb") as file:
                kind.write(file, ready, text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """The array in C order and in the byte order of this machine."""
    dtype = array.dtype.newbyteorder("=")
    if dtype not in DTYPES:
        raise ValueError(f"{name} is an array of {array.dtype}, expected real numbers or booleans")
    return np.asarray(array, dtype, order="C")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
