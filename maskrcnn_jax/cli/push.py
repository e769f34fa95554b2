"""`maskrcnn-jax push`: uploads the model of a run to the Hugging Face Hub, with a card."""

import argparse
import tempfile
from pathlib import Path

from maskrcnn_jax.report import model_card
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.runs.run_directory import Run
from maskrcnn_jax.weights import hub, saving, torchvision
from maskrcnn_jax.weights.report import describe


def run(args: argparse.Namespace) -> int:
    """Uploads weights and card in one commit, and prints the address; returns 0."""
    found = run_directory.load_run(args.run)
    directory, _ = run_directory.split_step(args.run)
    architecture = describe(found.config.model)
    card = model_card.write(directory, found.step, args.repository, architecture, args.license)
    if args.dry_run:
        print(card, end="")
        return 0
    with tempfile.TemporaryDirectory(prefix="maskrcnn-jax-") as folder:
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        _write_weights(Path(folder), found)
        address = hub.upload(Path(folder), args.repository, private=args.private)
    print(f"uploaded to {address}; hf://{args.repository} loads it")
    return 0


def _write_weights(folder: Path, found: Run) -> None:
    """Writes a safetensors file if torchvision has the network, because other programs read it."""
    name, any_network = hub.FILES
    try:
        torchvision.check_can_build(found.config.model)
    except ValueError:
        name = any_network
    saving.save(folder / name, found.config, found.variables, found.categories, consume=True)
