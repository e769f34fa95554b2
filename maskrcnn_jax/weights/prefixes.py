"""Takes off what training scripts put before the names of a model's arrays.

DataParallel adds "module.", torch.compile "_orig_mod.", averaged models "module." and a counter.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

_COUNTERS = ("n_averaged",)  # Of torch.optim.swa_utils.AveragedModel.

_logger = logging.getLogger(__name__)


def without(
    arrays: Mapping[str, Any], is_known: Callable[[Mapping[str, Any]], bool]
) -> Mapping[str, Any]:
    """Returns the arrays without the prefix that all names share, if their names are known then.

    A warning says what was taken off. The arrays stay as they are if they are known already, or if
    no common prefix makes them known.

    Args:
        arrays: Arrays by name.
        is_known: Whether names are those of a detector.
    """
    if is_known(arrays):
        return arrays
    found = {name: array for name, array in arrays.items() if name not in _COUNTERS}
    prefix = ""
    while not is_known(found):
        first = {name.partition(".")[0] for name in found}
        if len(first) != 1 or not all("." in name for name in found):
            return arrays
        prefix += f"{first.pop()}."
        found = {name.partition(".")[2]: array for name, array in found.items()}
    if prefix:
        _logger.warning("all names of arrays begin with %r, which is taken off", prefix)
    return found
