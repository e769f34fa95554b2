"""Finds the state dict in a checkpoint, whatever a training script has put around it.

Scripts wrap the tensors of a model under many names, and save the optimizer, an average of the
weights and objects of any class beside them. Only dictionaries of tensors count.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from maskrcnn_jax.weights.pytorch import Pickle, Tensor
from maskrcnn_jax.weights.restricted_pickle import Opaque, refusal

WRAPPERS = ("model", "state_dict", "model_state_dict")  # Taken before others, in this order.
TAKEN = "checkpoint.taken"  # The metadata key of the line that says which of several was taken.
_NO_MODEL = re.compile(r"optim|sched|scaler|momentum", re.I)
_AVERAGE = re.compile(r"(^|[_.])(ema|swa|avg|averaged?|teacher)([_.]|$)", re.I)
_MAX_DEPTH = 4
_NUM_NAMED = 5  # Faults, or other state dicts, that a message names.


class _Found(NamedTuple):
    path: tuple[str, ...]  # The keys that lead to it.
    tensors: dict[str, Tensor]
    others: dict[str, Any]  # What lies beside the tensors.


def find(loaded: Pickle) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of the state dict, and as metadata which of several it is.

    Of several, those of an optimizer do not count; averages of the weights come last, then the
    names of `WRAPPERS` decide, then the number of tensors. What else lies beside the tensors is
    left out.

    Raises:
        ValueError: There is no state dict, or a layer in it is an object of a class; the message
            says what there is instead.
    """
    root = loaded.root
    found = sorted(_dictionaries(root, (), set()), key=_rank)
    if not found:
        _refuse(loaded)
        return {}, {}
    chosen = found[0]
    for name, value in chosen.others.items():
        if isinstance(value, Opaque) and "." in str(name):  # It stands for a tensor of a layer.
            raise ValueError(refusal(value.text))
    return chosen.tensors, _note(chosen, found[1:])


def _dictionaries(value: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[_Found]:
    """The dictionaries with tensors by name, each once, also those in other dictionaries and lists.

    Of a list, the position is the key.
    """
    # The parts of a pickle that are read, such as tensors, are subclasses of tuple.
    if type(value) not in (dict, list, tuple) or id(value) in seen or len(path) > _MAX_DEPTH:
        return
    seen.add(id(value))
    within: Iterable[tuple[Any, Any]] = ((str(i), x) for i, x in enumerate(value))
    if isinstance(value, dict):
        tensors = {k: x for k, x in value.items() if isinstance(k, str) and isinstance(x, Tensor)}
        if tensors:
            yield _Found(path, tensors, {k: x for k, x in value.items() if k not in tensors})
        within = value.items()
    for key, x in within:
        if isinstance(key, str) and not _NO_MODEL.search(key):
            yield from _dictionaries(x, (*path, key), seen)


def _rank(found: _Found) -> tuple[Any, ...]:
    name = found.path[-1] if found.path else ""
    place = WRAPPERS.index(name) if name in WRAPPERS else len(WRAPPERS)
    is_average = any(_AVERAGE.search(key) for key in found.path)
    return is_average, place, -len(found.tensors), len(found.path)


def _refuse(loaded: Pickle) -> None:
    """Raises ValueError, which says what there is instead of tensors; an empty dict is fine."""
    root = loaded.root
    if loaded.opaque:
        raise ValueError(refusal(loaded.opaque[0]))
    if not isinstance(root, dict):
        raise ValueError(f"holds a {type(root).__name__}, expected a state dict: tensors by name")
    wrong = []
    for key, x in root.items():
        if not isinstance(x, Tensor):
            wrong.append(f"{str(key)[:100]!r} is a {type(x).__name__}")
        elif not isinstance(key, str):
            wrong.append(f"the name {str(key)[:100]!r} is a {type(key).__name__}")
    if wrong:
        more = f" and {len(wrong) - _NUM_NAMED} more" if len(wrong) > _NUM_NAMED else ""
        raise ValueError(
            f"expected a state dict, tensors by name, but {', '.join(wrong[:_NUM_NAMED])}{more}"
        )


def _note(chosen: _Found, others: list[_Found]) -> dict[str, str]:
    if not others:
        return {}
    named = ", ".join(map(_name, others[:_NUM_NAMED]))
    more = ", ..." if len(others) > _NUM_NAMED else ""
    text = f"taken: {_name(chosen)}; not taken: {named}{more}"
    return {TAKEN: text}


def _name(found: _Found) -> str:
    where = f"in {'.'.join(found.path)[:100]!r}" if found.path else "outside of all dictionaries"
    return f"{len(found.tensors)} tensors {where}"
