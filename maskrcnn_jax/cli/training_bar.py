"""The progress bar of a training run."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from maskrcnn_jax import distributed
from maskrcnn_jax.cli.console import Console


def progress_bar() -> Progress:
    """A bar with the steps done, the time left, and the latest loss and speed."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(quiet=not distributed.is_first()),
    )
