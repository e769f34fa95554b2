"""How training ends: one message and an exit code for everything a user can mend."""

import itertools
import os
import sys
from pathlib import Path

import jax

from maskrcnn_jax import distributed
from maskrcnn_jax.cli import config_file, memory, streams
from maskrcnn_jax.data.findings import plain


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
