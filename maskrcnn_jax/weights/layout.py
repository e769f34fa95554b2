"""Converts the arrays of a weight file to variables of a model and back.

Each family of files has a module with the same functions: `own`, `torchvision`. The module gives a
table with one entry for each array: its name in the file, its path among our variables, and the
permutation of its axes. `arrange` converts arrays to variables, `restore` converts variables to
arrays, and `misfits` compares arrays with a table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

Shape = tuple[int, ...]

_NUM_SHOWN, _MAX_LENGTH = 40, 300  # Misfits in a message, and characters of each.
Path = tuple[str, ...]


class Edit(NamedTuple):
    """A change of order or of rows that the files of a family need, in both directions."""

    read: Callable[[np.ndarray], np.ndarray]  # From the array in the file.
    write: Callable[[np.ndarray], np.ndarray]  # To the array in the file.


class Entry(NamedTuple):
    """One array of a file.

    Our array is ``edit.read(array).reshape(view).transpose(axes).reshape(target)``. The view
    differs from the edited shape only for a linear layer that reads a feature map, which PyTorch
    flattens in another order.
    """

    name: str  # Name in the file.
    path: Path  # Path among our variables: collection, modules, parameter.
    shape: Shape  # Shape in the file.
    view: Shape
    axes: Shape
    target: Shape  # Shape among our variables.
    edit: Edit | None = None


def entry(name: str, path: Path, shape: Shape, axes: Shape) -> Entry:
    """Makes the entry of an array that needs only a permutation of its axes."""
    return Entry(name, path, shape, shape, axes, tuple(shape[axis] for axis in axes))


def arrange(
    arrays: Mapping[str, np.ndarray], table: Iterable[Entry], *, consume: bool = False
) -> dict[str, Any]:
    """Converts arrays with the names and shapes of the table to nested float32 variables.

    With ``consume`` the arrays are taken out of their dict, one after the other, which frees the
    memory of each before the next is converted.
    """
    flat = {}
    for each in table:
        array = arrays.pop(each.name) if consume else arrays[each.name]
        array = array if each.edit is None else each.edit.read(array)
        array = array.reshape(each.view).transpose(each.axes).reshape(each.target)
        flat[each.path] = np.ascontiguousarray(array, np.float32)
    return traverse_util.unflatten_dict(flat)


def restore(
    variables: Mapping[str, Any], table: Sequence[Entry], *, consume: bool = False
) -> dict[str, np.ndarray]:
    """Converts variables to float32 arrays by the names of the table: the inverse of `arrange`.

    With ``consume`` the variables, a dict, are emptied, and each is freed before the next is
    converted.

    Raises:
        ValueError: The variables do not fit the table; the message lists every difference.
    """
    flat = traverse_util.flatten_dict(variables, sep="/")
    flat = {path: np.asarray(array) for path, array in flat.items()}
    if consume:
        variables.clear()
    expected = {"/".join(each.path): each.target for each in table}
    check_fit(flat, expected, "the weights do not fit the model")
    arrays = {}
    for each in table:
        permuted = tuple(each.view[axis] for axis in each.axes)
        path = "/".join(each.path)
        array = flat.pop(path) if consume else flat[path]
        array = array.reshape(permuted).transpose(np.argsort(each.axes))
        array = array.reshape(each.shape) if each.edit is None else each.edit.write(array)
        arrays[each.name] = np.ascontiguousarray(array.reshape(each.shape), np.float32)
    return arrays


def shapes(table: Iterable[Entry]) -> dict[str, Shape]:
    """Returns the shapes in the file by name."""
    return {each.name: each.shape for each in table}


def misfits(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> list[str]:
    """Describes every difference of arrays from the expected names and shapes."""
    problems = [f"missing {name}" for name in shapes if name not in arrays]
    problems += [f"unexpected {name}" for name in arrays if name not in shapes]
    for name, shape in shapes.items():
        if name in arrays and arrays[name].shape != shape:
            problems.append(f"{name} has shape {arrays[name].shape}, expected {shape}")
    return problems


def check_fit(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], message: str) -> None:
    """Raises ValueError, with the message and the first misfits, if there is a misfit."""
    if problems := misfits(arrays, shapes):
        shown = [each[:_MAX_LENGTH] for each in problems[:_NUM_SHOWN]]
        if len(problems) > _NUM_SHOWN:
            shown.append(f"and {len(problems) - _NUM_SHOWN} more")
        raise ValueError(f"{message}:\n  " + "\n  ".join(shown))
