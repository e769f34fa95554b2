"""Takes off what training scripts put before the names of a model's arrays.

DataParallel adds "module.", torch.compile "_orig_mod.", Lightning the attribute of the model, such
as "model.", averaged models "module." and a counter. Lightning puts the arrays of losses and
metrics beside those of the model.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

_COUNTERS = ("n_averaged",)  # Of torch.optim.swa_utils.AveragedModel.
# Added round any part of a model, so they may stand anywhere in a name.
_ROUND_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|averaged?|teacher)(_|$)", re.I)
_MAX_STEPS = 5
_NUM_NAMED = 3  # Names that a warning shows.

_logger = logging.getLogger(__name__)


def without(
    arrays: Mapping[str, Any], is_known: Callable[[Mapping[str, Any]], bool]
) -> Mapping[str, Any]:
    """Returns the arrays of the model, by the names that it has alone.

    A warning says what was taken off, and what was left out. The arrays stay as they are if they
    are known already, or if no prefix makes them known.

    Args:
        arrays: Arrays by name.
        is_known: Whether names are those of a detector.
    """
    found = dict(arrays) if is_known(arrays) else _taken(arrays, is_known)
    if found is None:
        found = _taken(arrays, lambda names: is_known(_without_wrappers(names)))
    if found is None:
        return arrays
    without = _without_wrappers(found)
    if list(without) != list(found):
        wrappers = {x for name in found for x in name.split(".") if x in _ROUND_PARTS}
        _logger.warning("taken off the names of arrays: %s", ", ".join(sorted(wrappers)))
    return without


def _taken(
    arrays: Mapping[str, Any], is_known: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any] | None:
    """The arrays below the prefix that makes them known; None if there is no such prefix."""
    kept = {name: array for name, array in arrays.items() if name not in _COUNTERS}
    if is_known(kept):
        return kept
    prefixed = _below_prefix(kept, is_known)
    if prefixed is None:
        return None
    prefix, below = prefixed
    left_out = [name for name in kept if not name.startswith(prefix)]
    if left_out:
        named = ", ".join(repr(name[:100]) for name in left_out[:_NUM_NAMED])
        counted = f"{len(below)} of {len(kept)} arrays, whose names begin with {prefix[:100]!r}"
        _logger.warning("taken: %s; the others, such as %s, are left out", counted, named)
    else:
        _logger.warning("all names of arrays begin with %r, which is taken off", prefix)
    return below


def _without_wrappers(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """Takes off the names of wrappers that may be round any part of a model."""
    short = {name: ".".join(x for x in name.split(".") if x not in _ROUND_PARTS) for name in arrays}
    if len(set(short.values())) < len(short):  # Two arrays would share a name.
        return arrays
    return {short[name]: array for name, array in arrays.items()}


def _below_prefix(
    arrays: Mapping[str, Any], is_known: Callable[[Mapping[str, Any]], bool]
) -> tuple[str, dict[str, Any]] | None:
    """The prefix that makes names known, and the arrays without it; an average comes last."""
    level, known = {"": dict(arrays)}, {}
    for _ in range(_MAX_STEPS):
        following: dict[str, dict[str, Any]] = {}
        for prefix, group in level.items():
            for name, array in group.items():
                first, dot, rest = name.partition(".")
                if dot:
                    following.setdefault(f"{prefix}{first}.", {})[rest] = array
        found = {prefix for prefix, group in following.items() if is_known(group)}
        known |= {prefix: following.pop(prefix) for prefix in list(following) if prefix in found}
        level = following
    return min(known.items(), key=lambda pair: _is_average(pair[0]), default=None)


def _is_average(prefix: str) -> bool:
    return any(map(_AVERAGE.search, prefix.split(".")))
