"""A run before its first step: random heads, frequencies of classes, the claim on its results."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import distributed, training
from maskrcnn_jax.cli import start
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.shapes import ShapesDataset

NUM_CLASSES = 4


class Heads:
    """Stands in for `MaskRCNN`: a layer with an output for each class, and one without."""

    def __init__(self, config):
        self.config = config

    def init(self, key, images, sizes):
        scores = jnp.zeros((2, self.config.num_classes))
        return {"params": {"scores": scores, "anchors": jnp.zeros((2, NUM_CLASSES))}}


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(start, "MaskRCNN", Heads)
    monkeypatch.setattr(training, "init_variables", lambda model, seed: model.init(seed, *"ab"))
    config = Config()
    config.model.num_classes = NUM_CLASSES
    return config


def test_fresh_heads_are_the_layers_with_an_output_for_each_class(config):
    """A layer that happens to have as many outputs as there are classes keeps its weights."""
    loaded = {"scores": np.ones((2, NUM_CLASSES)), "anchors": np.ones((2, NUM_CLASSES))}
    found = start._with_fresh_heads({"params": loaded, "constants": "kept"}, config)
    assert found["constants"] == "kept"
    np.testing.assert_array_equal(found["params"]["scores"], 0)
    np.testing.assert_array_equal(found["params"]["anchors"], 1)


def test_frequencies_are_counted_only_for_a_loss_that_draws_by_them():
    dataset, config = ShapesDataset(8, 64, 0), Config()
    config.model.num_classes = len(dataset.categories) + 1
    assert start._with_frequencies(config, dataset) is config
    config.model.box_head.federated_classes = 2
    counted = start._with_frequencies(config, dataset).model.box_head.class_frequencies
    expected = [sum(k in labels for labels in dataset.labels) for k in (1, 2, 3)][: len(counted)]
    assert list(counted[: len(expected)]) == expected and len(counted) == len(dataset.categories)
    config.model.box_head.class_frequencies = (5.0,) * len(counted)  # Those of the user stay.
    assert start._with_frequencies(config, dataset) is config


@pytest.mark.parametrize("is_first", [True, False])
def test_the_first_process_alone_prints_and_claims(tmp_path, monkeypatch, capsys, is_first):
    monkeypatch.setattr(distributed, "is_first", lambda: is_first)
    start.print_once("a line")
    with start.claim_results(tmp_path, force=False) as announce:
        announce()
        (tmp_path / "evaluation.json").write_text("{}")
        (tmp_path / "report.html").write_text("page")
    assert capsys.readouterr().out == ("a line\n" if is_first else "")
    assert (tmp_path / "outputs.json").exists() == is_first


def test_results_are_listed_with_the_command_that_may_repeat_them(tmp_path):
    for _ in range(2):  # A run may replace its own results.
        with start.claim_results(tmp_path, force=False) as announce:
            announce()
            for name in ("evaluation.json", "report.html"):
                (tmp_path / name).write_text("results")
    listed = json.loads((tmp_path / "outputs.json").read_text())["files"]
    assert {name: entry["command"] for name, entry in listed.items()} == {
        "evaluation.json": "maskrcnn-jax evaluate",
        "report.html": "maskrcnn-jax train",
    }


@pytest.mark.parametrize("name", ["detections.json", "predictions.png"])
def test_results_that_no_run_has_written_stay_without_force(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"{name} exists and was not written by .*--force"):
        with start.claim_results(tmp_path, force=False):
            pass
    with start.claim_results(tmp_path, force=True):
        pass
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("mask_head, has_masks", [(Config().model.mask_head, True), (None, False)])
def test_a_run_has_masks_if_its_model_draws_them(mask_head, has_masks):
    config = Config()
    config.model.mask_head = mask_head
    assert start.Start(config, *[SimpleNamespace()] * 4).has_masks == has_masks
