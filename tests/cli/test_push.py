"""`maskrcnn-jax push`, with a stand-in for the upload; tests/weights/test_hub.py really uploads."""

from pathlib import Path

import pytest

from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.weights import hub, saving, torchvision


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory, whose weights are written as an empty file."""
    config, categories = Config(num_steps=8), Categories((1, 2), ("apple", "nut"))
    run_directory.write_run(tmp_path / "run", config, categories)
    found = run_directory.Run(config, categories, {}, 6)
    monkeypatch.setattr(run_directory, "load_run", lambda directory: found)
    monkeypatch.setattr(saving, "save", lambda path, *model, consume: path.touch())
    return tmp_path / "run"


@pytest.fixture
def uploads(monkeypatch):
    """Collects the files of each upload, its repository and whether it is private."""
    found = []

    def upload(folder, repository, *, private):
        files = {path.name: path.read_text() for path in Path(folder).iterdir()}
        found.append((files, repository, private))
        return f"https://hub/{repository}"

    monkeypatch.setattr(hub, "upload", upload)
    return found


@pytest.mark.parametrize("arguments, private", [([], False), (["--private"], True)])
def test_a_card_and_the_weights_are_uploaded(run, uploads, monkeypatch, capsys, arguments, private):
    monkeypatch.setattr(torchvision, "check_can_build", lambda config: None)
    assert main(["push", str(run), "me/nuts", "--license", "mit", *arguments]) == 0
    ((files, repository, is_private),) = uploads
    assert files.keys() == {"README.md", "model.safetensors"}
    assert repository == "me/nuts" and is_private == private
    assert "license: mit" in files["README.md"] and "6 of 8 steps" in files["README.md"]
    told = "uploaded to https://hub/me/nuts; hf://me/nuts loads it\n"
    assert capsys.readouterr().out == told


def test_a_network_that_torchvision_lacks_is_written_with_our_names(run, uploads, monkeypatch):
    def refuse(config):
        raise ValueError("torchvision has no such network")

    monkeypatch.setattr(torchvision, "check_can_build", refuse)
    assert main(["push", str(run), "me/nuts"]) == 0
    ((files, _, _),) = uploads
    assert files.keys() == {"README.md", "model.npz"}


def test_a_dry_run_prints_the_card_alone(run, uploads, capsys):
    assert main(["push", str(run), "me/nuts", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("---\n") and "# nuts" in printed and uploads == []


def test_the_card_of_a_checkpoint_is_that_of_its_run(run, uploads, capsys):
    assert main(["push", str(run / "checkpoints" / "6"), "me/nuts", "--dry-run"]) == 0
    assert "2 categories: apple, nut." in capsys.readouterr().out
