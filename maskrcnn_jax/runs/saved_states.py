"""Converts the training state to the items of a checkpoint, and back."""

import contextlib
import gc
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from maskrcnn_jax.runs import stored_files
from maskrcnn_jax.training import TrainState

# The codes of tensorstore's errors for missing, truncated or altered files. Other codes, such as
# PERMISSION_DENIED and UNAVAILABLE, do not mean that files are damaged.
_DAMAGE = ("DATA_LOSS", "NOT_FOUND", "OUT_OF_RANGE")
_SIGNS = ("Error decoding", "decompress", "Invalid JSON")  # In messages with other codes or none.


class DoesNotFit(Exception):
    """The checkpoint is intact, but has another model or optimizer."""


def items(state: TrainState) -> dict[str, Any]:
    """Splits a state into ``variables``, for all uses, and ``training``, for training only.

    If the state keeps an average, the variables hold the average instead of the parameters.
    """
    params = None if state.average is None else state.params
    training = {"step": state.step, "optimizer": state.optimizer, "params": params}
    return {"variables": state.variables, "training": training}


def read(path: Path, state: TrainState) -> TrainState:
    """Reads the state in a checkpoint directory, with the shardings of the given state.

    The call does not wait for other processes.

    Raises:
        DoesNotFit: The checkpoint has another model or optimizer; the message lists differences.
        OSError, ValueError, LookupError: The files cannot be read; see `is_damage`.
    """
    found = {name: _read_item(path / name, x) for name, x in items(abstract(state)).items()}
    return _join(**found)


def read_variables(path: Path, variables: Any) -> Any:
    """Reads only the variables of a checkpoint, with the shardings of the given shapes.

    Raises the errors of `read`.
    """
    return _read_item(path / "variables", variables)


def read_back(path: Path, state: TrainState) -> None:
    """Reads a whole checkpoint into memory of the host, and drops it. Raises the errors of `read`.

    Args:
        path: The directory of the checkpoint.
        state: The shapes of what was saved.
    """
    for name, item in items(state).items():
        _read_item(path / name, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), item))


def check(path: Path, state: TrainState) -> None:
    """Checks that a checkpoint lists the arrays of a state, and that its files are long enough.

    Reads no whole array. Arguments and errors as in `read_back`.
    """
    for name, item in items(state).items():
        leaves = jax.tree_util.tree_leaves_with_path(item)
        wanted = {jax.tree_util.keystr(x, simple=True, separator="."): y.shape for x, y in leaves}
        # Orbax would read this too, but keeps half a megabyte for ever each time.
        differing = _differences(stored_files.saved_shapes(path / name), wanted)
        if differing:
            raise DoesNotFit(f"{path / name} is not what was saved: {differing}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message; those of Orbax and tensorstore have many lines.

    Of a long line, the middle is left out: the reason is at the end.
    """
    line = str(error).partition("\n")[0].partition(" [tensorstore_spec")[0] or repr(error)
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-200:]}"


def is_damage(error: Exception) -> bool:
    """Whether an error of `read` means damaged files, rather than unreachable ones."""
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError)
    unreadable = isinstance(error, LookupError | json.JSONDecodeError | UnicodeDecodeError)
    has_sign = any(sign in str(error) for sign in _SIGNS)
    return unreadable or has_sign or str(error).startswith(_DAMAGE)


def _read_item(path: Path, target: Any) -> Any:
    # First, because Orbax prints a traceback for each array that it does not get to read.
    stored_files.check(path)
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = _tree(handler, path)
        found, wanted = _leaves_by_name(saved), _leaves_by_name(target)
        differing = _differences(_shapes(found), _shapes(wanted))
        if differing:
            raise DoesNotFit(f"{path} does not fit this config: {differing}; use a new --workdir")
        # Orbax can only restore the tree structure that was saved.
        places = jax.tree.unflatten(jax.tree.structure(saved), [wanted[name] for name in found])
        values = jax.tree.leaves(_restored(handler, path, places))
    by_name = dict(zip(found, values, strict=True))
    return jax.tree.unflatten(jax.tree.structure(target), [by_name[name] for name in wanted])


def _tree(handler: ocp.StandardCheckpointHandler, path: Path) -> Any:
    try:
        return handler.metadata(path).tree
    except (NotImplementedError, TypeError, AttributeError) as error:  # Of a value of a wrong kind.
        raise ValueError(f"DATA_LOSS: {path}: {error}") from error


def _restored(handler: ocp.StandardCheckpointHandler, path: Path, places: Any) -> Any:
    """Restores an item. Raises the errors of `read`, with nothing else on stderr.

    Orbax puts an error of tensorstore into a plain Exception. Its other reads end in a closed event
    loop, for which Python would print a traceback each when they are collected.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        try:
            return handler.restore(path, args=ocp.args.StandardRestore(places))
        except Exception as error:
            is_wrapped = type(error) is Exception and error.__cause__ is not None
            reason = (error.__cause__ if is_wrapped else error).with_traceback(None)
        gc.collect()
    finally:
        sys.unraisablehook = hook
    raise reason


def _leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, without positions in tuples.

    Positions in the optimizer's state change with gradient clipping and masks of the weight decay.
    If several leaves then share a path, such as the two counts of AdamW, all but the first get a
    number.
    """
    leaves: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = tuple(key for key in path if not isinstance(key, jax.tree_util.SequenceKey))
        name = jax.tree_util.keystr(keys, simple=True, separator=".")
        seen[name] += 1
        leaves[name if seen[name] == 1 else f"{name} ({seen[name]})"] = leaf
    return leaves


def _shapes(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}


def _differences(saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> str:
    """Lists the arrays that only one side has, or whose shapes differ; empty if there are none."""
    found = [f"{name} is missing" for name in sorted(wanted.keys() - saved.keys())]
    found += [f"{name} is unexpected" for name in sorted(saved.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & saved.keys()):
        if saved[name] != wanted[name]:
            found.append(f"{name} is {saved[name]}, not {wanted[name]}")
    return ", ".join(found[:5]) + (f", and {len(found) - 5} more" if len(found) > 5 else "")


def abstract(tree: Any) -> Any:
    """The shapes, dtypes and shardings of the arrays of a tree."""

    def describe(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(describe, tree)


def _join(variables: dict[str, Any], training: dict[str, Any]) -> TrainState:
    params = training.pop("params")
    if params is None:
        return TrainState(**variables, **training)
    return TrainState(**variables | {"params": params}, **training, average=variables["params"])
