"""Weight files: arrays by name, with text metadata.

Files may come from untrusted sources. The format is recognised by the content of a file, nothing in
a file is executed, and every declared size is compared with the size of the file before memory is
allocated. The formats are in `pytorch_zip`, `pytorch_legacy`, `array_pickle` and `npz`; safetensors
are read by their own library.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from maskrcnn_jax import whole_files
from maskrcnn_jax.weights import array_pickle, npz, pytorch_legacy, pytorch_zip, zip_records

DTYPES = {
    np.dtype(kind)
    for kind in (
        *(np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.bool_),
        *(np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8),
    )
}
SUFFIXES = (".npz", ".pth", ".safetensors")
FOREIGN = {  # Descriptions of other files by their first bytes.
    b"": "is empty",
    b"version https://git-lfs": (
        "is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    ),
    b"\x89PNG": "is a PNG image",
    b"\x89HDF": "is an HDF5 file",
    b"\x1f\x8b": "is packed with gzip",
    b"<": "is an HTML or XML page; was the address right?",
}
MAX_SAFETENSORS_HEADER = 100_000_000  # The limit of the safetensors library.


class WeightFile(NamedTuple):
    """The content of a file.

    Arrays may be read-only. They share memory if the tensors of the file do.
    """

    arrays: dict[str, np.ndarray]  # In the order of the file.
    metadata: dict[str, str]  # Empty if the file has none.


def read(path: str | Path) -> WeightFile:
    """Reads a state dict of PyTorch (both formats), a pickle of arrays, safetensors, or npz.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has another format, is damaged, or declares wrong sizes; the message
            names the file and the error.
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
                raise ValueError(
                    f"{name} is an array of {array.dtype}, expected real numbers or booleans"
                )
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
    # Test for safetensors before the legacy format, because the length of a safetensors header may
    # look like the first opcode of a pickle.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return _read_safetensors(path)
    if start.startswith(b"\x80") and pytorch_legacy.START in start:
        return WeightFile(*pytorch_legacy.read(file))
    if start.startswith(array_pickle.STARTS):
        return WeightFile(*array_pickle.read(file))
    raise ValueError(
        f"it {_describe_foreign(start)}; expected a state dict of PyTorch, a pickle of arrays, "
        "safetensors or a NumPy archive"
    )


def _describe_foreign(start: bytes) -> str:
    """Describes a file of another format by its first bytes."""
    if not start:
        return FOREIGN[b""]
    for magic, text in FOREIGN.items():
        if magic and start.startswith(magic):
            return text
    return f"begins with {start!r}"


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.offset_keys()}
            return WeightFile(arrays, file.metadata() or {})
    # The library raises TypeError and AttributeError for dtypes that NumPy lacks.
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(f"not a good safetensors file: {error}") from error


def write(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays in the format of the suffix: .npz (ours), .pth (PyTorch) or .safetensors.

    An existing file is replaced atomically when the new one is complete. PyTorch reads a ``.pth``
    with ``torch.load(path, weights_only=True)``.

    Raises:
        ValueError: The suffix is unknown, the metadata are not strings, or the format cannot hold a
            dtype.
        OSError: The file cannot be written; the message names it.
    """
    path, text = Path(path), dict(metadata or {})
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}"
        )
    if not all(isinstance(part, str) for part in (*text, *text.values())):
        raise ValueError(f"metadata is text by key, got {text}")
    ready = {name: _plain(name, array) for name, array in arrays.items()}
    with whole_files.replacing(path) as partial:
        if path.suffix == ".safetensors":
            _write_safetensors(partial, ready, text)
        else:
            kind = pytorch_zip if path.suffix == ".pth" else npz
            with partial.open("wb") as file:
                kind.write(file, ready, text)


def _write_safetensors(path: Path, arrays: dict[str, np.ndarray], text: dict[str, str]) -> None:
    try:
        # With an empty dict as metadata, a file without arrays would be invalid.
        save_file(arrays, path, metadata=text or None)
    except safetensors.SafetensorError as error:  # Raised for a full disk, too.
        raise OSError(str(error)) from error


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """Converts an array to C order and to the byte order of this machine."""
    dtype = array.dtype.newbyteorder("=")
    if dtype not in DTYPES:
        raise ValueError(f"{name} is an array of {array.dtype}, expected real numbers or booleans")
    return np.asarray(array, dtype, order="C")


def sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    return digest(path, "sha256")


def digest(path: str | Path, algorithm: str) -> str:
    """Returns the digest of a file, "sha256" or "md5", in hexadecimal digits.

    An md5 finds damage, but no intent.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
