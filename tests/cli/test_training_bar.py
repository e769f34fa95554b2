"""The bar of a run: drawn by the first process, with the latest loss."""

import pytest

from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.cli.training_bar import distributed, progress_bar


@pytest.mark.parametrize("is_first", [True, False])
def test_only_the_first_process_draws(capsys, monkeypatch, is_first):
    monkeypatch.setattr(distributed, "is_first", lambda: is_first)
    with progress_bar() as bar:
        assert isinstance(bar.console, Console)  # It raises when nobody reads it.
        bar.add_task("train", total=8, completed=3, status="loss 0.5")
    printed = capsys.readouterr().out
    assert all((text in printed) == is_first for text in ("train", "3/8", "left", "loss 0.5"))
