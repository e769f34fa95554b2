"""Looks at all image files of a data set before they are needed, and leaves out what is bad."""

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from maskrcnn_jax.data.dataset import Dataset
from maskrcnn_jax.data.findings import short

_NUM_THREADS = 16  # Most of the time goes by waiting for disks.
_NUM_NAMED = 3  # Reasons in one message.
_MAX_REASON = 400  # Characters of a reason there.


def find_bad(
    dataset: Dataset, *, whole: bool = False, advance: Callable[[int], object] = lambda count: None
) -> dict[int, str]:
    """Finds the images that cannot be used.

    Args:
        dataset: Images with a method ``check(index)``, which raises the errors of reading an image;
            others have no files to look at.
        whole: Whether to decode all pixels instead of looking at headers.
        advance: Called with 1 after each image.

    Returns:
        The reason by image id, in the order of the data set.
    """
    look = dataset.__getitem__ if whole else getattr(dataset, "check", None)
    if look is None:
        return {}

    def reason(index: int) -> str | None:
        try:
            look(index)
        except (OSError, ValueError, MemoryError) as error:
            return str(error)
        return None

    image_ids, found = dataset.image_ids, {}
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for index, told in enumerate(mapped(pool, reason, len(dataset))):
            if told is not None:
                found[int(image_ids[index])] = told
            advance(1)
    return found


def mapped(pool: ThreadPoolExecutor, function: Callable[[int], Any], count: int) -> Any:
    """Maps over indices in order; an interruption waits for one part only."""
    size = 64 * _NUM_THREADS
    parts = (range(i, min(i + size, count)) for i in range(0, count, size))
    return itertools.chain.from_iterable(pool.map(function, part) for part in parts)


def check_few(bad: dict[int, str], count: int, what: str) -> None:
    """Raises ValueError if most of ``count`` images are bad: the mistake is elsewhere then.

    Args:
        bad: Reasons by image id.
        count: The number of images.
        what: The images, for the message.
    """
    if 2 * len(bad) > count:
        raise ValueError(f"{len(bad)} of {count} {what} cannot be used: {summary(bad)}")


def advise_once(reasons: Iterable[str]) -> list[str]:
    """Reasons in their order. A package to install stands in the first that asks for it only."""
    told, known = [], set()
    for reason in reasons:
        text, is_advice, package = reason.rpartition(": pip install ")
        told.append(text if is_advice and package in known else reason)
        known.add(package)
    return told


def summary(bad: dict[int, str]) -> str:
    """The first reasons in one line."""
    reasons = advise_once(bad.values())
    rest = f"; and {len(reasons) - _NUM_NAMED} more" if len(reasons) > _NUM_NAMED else ""
    return "; ".join(short(reason, _MAX_REASON) for reason in reasons[:_NUM_NAMED]) + rest


def without(dataset: Any, image_ids: Iterable[int]) -> Any:
    """The data set without some images, if it can leave images out (`CocoDataset.without`)."""
    dropped = set(image_ids)
    return dataset.without(dropped) if dropped and hasattr(dataset, "without") else dataset
