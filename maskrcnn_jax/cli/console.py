"""Rich's console, without its way to leave."""

import rich.console


class Console(rich.console.Console):
    """A console that raises BrokenPipeError when nobody reads it any more, like `print`.

    Rich would exit in the middle of the work.
    """

    def on_broken_pipe(self) -> None:
        """Raises the error that Rich is handling."""
        raise
