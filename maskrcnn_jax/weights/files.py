"""Our own file of weights: a NumPy archive whose names are paths of variables, ``params/backbone/conv1/kernel``."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from flax import traverse_util


def save_weights(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays under their names."""
    np.savez(path, **arrays)


def load_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads what `save_weights` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not such a file; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weight file {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (BadZipFile, ValueError, OSError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} is not a weight file of maskrcnn_jax (a NumPy archive): {error}") from error


def load_backbone(path: str | Path, variables: dict[str, Any]) -> dict[str, Any]:
    """Replaces the variables of the backbone by those of a file; what the file lacks keeps its initial value.

    Raises:
        ValueError: The file holds a name that the backbone does not have, or another shape; all of them are listed.
    """
    loaded = load_weights(path)
    flat = traverse_util.flatten_dict(variables, sep="/")
    backbone = {name for name in flat if name.split("/")[1] == "backbone"}
    wrong = [f"{name} is unexpected" for name in sorted(loaded.keys() - backbone)]
    wrong += [
        f"{name} has shape {loaded[name].shape}, expected {flat[name].shape}"
        for name in sorted(loaded.keys() & backbone)
        if loaded[name].shape != flat[name].shape
    ]
    if wrong:
        raise ValueError(f"{path} does not fit the backbone: {'; '.join(wrong)}")
    flat |= {name: array.astype(np.float32) for name, array in loaded.items()}
    return traverse_util.unflatten_dict(flat, sep="/")
