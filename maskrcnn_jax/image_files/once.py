"""Warnings about files, each for the first file that it is about."""

import logging

_logger = logging.getLogger(__name__)
_warned: set[str] = set()


def warn(message: str, name: str) -> None:
    """Logs a warning with the name of a file, unless it was logged for another file before."""
    if message not in _warned:
        _warned.add(message)
        _logger.warning("%s; the first one is %s", message, name)
