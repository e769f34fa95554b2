"""How training ends: one message and an exit code for everything a user can mend."""

import itertools
import os
import sys
from logging import LogRecord
from pathlib import Path
from typing import Any

import jax
from absl import logging

from maskrcnn_jax import distributed
from maskrcnn_jax.cli import config_file, memory, streams
from maskrcnn_jax.data.findings import plain

_LONGEST = 300  # Characters of a message of Orbax.


def shorten_failed_saves() -> None:
    """Shortens what Orbax and tensorstore print of a save that fails: hundreds of lines.

    Orbax logs a traceback, of which the reason remains, and `Checkpoints` raises the failure.
    Tensorstore prints an error for every write that nobody waits for any more.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax reports every thread it starts.
    logging.get_absl_logger().addFilter(_shorten)
    previous = sys.unraisablehook

    def hook(found: Any) -> None:
        if found.exc_type is not RuntimeError or str(found.exc_value) != "Event loop is closed":
            previous(found)

    sys.unraisablehook = hook


def _shorten(record: LogRecord) -> bool:
    """Leaves one line of a record; the reason is at the end."""
    message = record.getMessage().partition("\n")[0].partition(" [tensorstore_spec")[0]
    cut = f"... {message[-_LONGEST:]}" if len(message) > _LONGEST else message
    record.msg, record.args, record.exc_info = cut, (), None
    return True


def leave(code: int) -> None:
    """Exits. One of several processes exits at once: a normal exit waits for the others."""
    streams.flush()
    if distributed.started() and jax.process_count() > 1:
        os._exit(code)
    sys.exit(code)


def explain(error: Exception, arguments: list[str]) -> Exception:
    """The mistake in the config file if there is one, since the flags report it less clearly."""
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = argument.lstrip("-").partition("=")
        path = value if equals else following
        if name == "config" and argument.startswith("-") and path:
            try:
                config_file.read(Path(path))
            except (OSError, ValueError) as reason:
                return reason
    return error


def refuse(error: Exception, program: str) -> int:
    """Prints one message, which begins with the name of the program; returns the exit code 2."""
    # The text of a KeyError is its message in quotes.
    message = error.args[0] if isinstance(error, KeyError) else streams.explain(error)
    if memory.ran_out(error):
        message = memory.explain(error)
    message = streams.flush() or message
    print(plain(f"{program}: {'; '.join([str(message), *_notes(error)])}"), file=sys.stderr)
    return 2


def _notes(error: BaseException) -> list[str]:
    """The notes of an error, and of those that led to it while the run was closed."""
    own = list(getattr(error, "__notes__", ()))
    return own + _notes(error.__context__) if error.__context__ else own
