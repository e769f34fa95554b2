"""The training state as the items of a checkpoint, and back: what fits, and what is damaged."""

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from maskrcnn_jax.training import TrainState

# How tensorstore's messages begin where files are missing, cut short or altered. Others, such as PERMISSION_DENIED and
# UNAVAILABLE, say nothing about the files.
_DAMAGE = ("DATA_LOSS", "NOT_FOUND", "OUT_OF_RANGE")


class DoesNotFit(Exception):
    """A good checkpoint, of something else."""


def items(state: TrainState) -> dict[str, Any]:
    """``variables``, which evaluation and prediction read alone, and ``training``: what only training needs.

    Where an average is kept, the variables have it in the place of the parameters.
    """
    params = None if state.average is None else state.params
    training = {"step": state.step, "optimizer": state.optimizer, "params": params}
    return {"variables": state.variables, "training": training}


def read(path: Path, state: TrainState) -> TrainState:
    """The state in the directory of a checkpoint, placed like the one given; without waiting for other processes.

    Raises:
        DoesNotFit: It is the state of another model or optimizer; the message names what differs.
        OSError, ValueError, LookupError: It cannot be read; see `is_damage`.
    """
    return _join(**{name: _read_item(path / name, _abstract(item)) for name, item in items(state).items()})


def is_damage(error: Exception) -> bool:
    """Whether the files themselves are at fault for what `read` raised, and not the way to them."""
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError)
    return isinstance(error, LookupError | json.JSONDecodeError | UnicodeDecodeError) or str(error).startswith(_DAMAGE)


def _read_item(path: Path, target: Any) -> Any:
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = handler.metadata(path).tree
        found, wanted = _leaves_by_name(saved), _leaves_by_name(target)
        differing = _differences(found, wanted)
        if differing:
            raise DoesNotFit(f"{path} does not fit this config: {differing}; use a new --workdir")
        # Orbax reads nothing but the very structure that was saved.
        places = jax.tree.unflatten(jax.tree.structure(saved), [wanted[name] for name in found])
        values = jax.tree.leaves(handler.restore(path, args=ocp.args.StandardRestore(places)))
    by_name = dict(zip(found, values, strict=True))
    return jax.tree.unflatten(jax.tree.structure(target), [by_name[name] for name in wanted])


def _leaves_by_name(tree: Any) -> dict[str, Any]:
    """Leaves by their path without positions in tuples, which clipping of gradients and masks of the decay shift.

    Of leaves that have the same path then, such as the two counts of AdamW, the later ones are numbered.
    """
    leaves: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = tuple(key for key in path if not isinstance(key, jax.tree_util.SequenceKey))
        name = jax.tree_util.keystr(keys, simple=True, separator=".")
        seen[name] += 1
        leaves[name if seen[name] == 1 else f"{name} ({seen[name]})"] = leaf
    return leaves


def _differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Names of what one of them has and the other has not, or has in another shape; empty if there are none."""
    found = [f"{name} is missing" for name in sorted(wanted.keys() - saved.keys())]
    found += [f"{name} is unexpected" for name in sorted(saved.keys() - wanted.keys())]
    shapes = {name: (tuple(saved[name].shape), wanted[name].shape) for name in sorted(wanted.keys() & saved.keys())}
    found += [f"{name} is {theirs}, not {ours}" for name, (theirs, ours) in shapes.items() if theirs != ours]
    return ", ".join(found[:5]) + (f", and {len(found) - 5} more" if len(found) > 5 else "")


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _join(variables: dict[str, Any], training: dict[str, Any]) -> TrainState:
    params = training.pop("params")
    if params is None:
        return TrainState(**variables, **training)
    return TrainState(**variables | {"params": params}, **training, average=variables["params"])
