"""The card of a model on the hub: its numbers, its words, and what strangers must not read."""

import itertools
import json

import pytest
import yaml

from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.report import model_card
from maskrcnn_jax.runs import run_directory

NUMBERS = {"AP": 0.25, "AP50": 0.5, "AP75": 0.125, "APs": -1.0, "APm": 0.2, "APl": 0.3}


@pytest.fixture
def make(tmp_path):
    """Writes the card of a new run with a log and commands; `change` edits its config."""
    numbers = itertools.count()

    def make(log=(), commands=(), names=("apple", "nut"), licence=None, change=lambda c: None):
        config = Config(num_steps=8, batch_size=2)
        config.data.train_images = "/home/me/secret/photos"
        config.data.train_annotations = "/home/me/secret/nuts_train.json"
        config.data.val_images, config.data.val_annotations = "val", "nuts_val.json"
        change(config)
        categories = Categories(tuple(range(1, len(names) + 1)), tuple(names))
        directory = tmp_path / str(next(numbers))
        run_directory.write_run(directory, config, categories)
        for command in commands:
            run_directory.add_command(directory, command)
        lines = "".join(json.dumps(entry) + "\n" for entry in log)
        (directory / "metrics.jsonl").write_text(lines)
        return model_card.write(directory, 8, "me/nuts", "A network", licence)

    return make


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_last_evaluation_of_these_weights_counts(make):
    log = [
        {"step": 4, "bbox": NUMBERS | {"AP": 0.1}, "segm": NUMBERS},
        {"step": 6, "loss": 1.0},
        {"step": 8, "bbox": NUMBERS | {"AP": 0.75}, "segm": NUMBERS},
        {"step": 9, "bbox": NUMBERS, "segm": NUMBERS},
    ]
    card = make(log, licence="apache-2.0")
    assert "after step 8:" in card
    assert "| boxes | 0.750 | 0.500 | 0.125 | - | 0.200 | 0.300 |" in card
    front = front_matter(card)
    assert front["license"] == "apache-2.0" and front["library_name"] == "maskrcnn-jax"
    (entry,) = front["model-index"]
    (result,) = entry["results"]
    assert {x["type"]: x["value"] for x in result["metrics"]} == {
        "bbox_ap": 0.75,
        "bbox_ap50": 0.5,
        "segm_ap": 0.25,
        "segm_ap50": 0.5,
    }
    assert result["dataset"]["name"] == "nuts_train.json"


def test_a_run_without_evaluations_and_commands_says_so(make):
    card = make()
    assert "The run was not evaluated." in card and "The authors have named none." in card
    assert "8 of 8 steps, each of 2 images. The run did not record its command." in card
    assert "model-index" not in front_matter(card) and "license" not in front_matter(card)


def test_numbers_that_are_none_are_left_out(make):
    """COCO's number for no objects of a size is -1."""
    log = [{"step": 8, "bbox": NUMBERS | {"AP": -1.0, "AP50": float("nan")}}]
    card = make(log)
    assert "| boxes | - | - | 0.125 |" in card and "model-index" not in front_matter(card)


def test_of_paths_only_the_last_part_is_shown(make):
    words = ["/opt/bin/maskrcnn-jax", "train", "--config=~/secret/nuts.py", "--workdir=/secret/a b"]
    card = make(commands=[words, words, ["train.py", "--config.seed=1"]])
    assert "images of `photos`, annotations of `nuts_train.json`" in card
    assert "maskrcnn-jax train --config=nuts.py --workdir='a b'\ntrain.py --config.seed=1" in card
    assert "secret" not in card and "/opt" not in card


@pytest.mark.parametrize(
    "change, line",
    [
        ({"source": "shapes"}, "Synthetic shapes"),
        ({"source": "tfds", "tfds_dir": "/a/records/"}, "`records`, prepared by"),
        (
            {"train": (("/a/x", "/b/x.json", 1.0), ("/a/y", "/b/y.json", 1.0))},
            "images of `y`, annotations of `y.json`\n- validation: images of `val`",
        ),
    ],
)
def test_every_source_of_data_is_named(make, change, line):
    def apply(config):
        for name, value in change.items():
            setattr(config.data, name, value)

    assert line in make(change=apply)


def test_a_network_without_masks_detects_objects(make):
    def no_masks(config):
        config.model.mask_head = None

    front = front_matter(make(change=no_masks))
    assert front["pipeline_tag"] == "object-detection"
    assert front["tags"] == ["jax", "faster-rcnn", "object-detection"]
    assert front_matter(make())["tags"][-1] == "instance-segmentation"


def test_names_are_text_and_not_markup(make):
    card = make(names=("a *hazel*\n<nut>", "b"))
    assert r"2 categories: a \*hazel\* \<nut\>, b." in card
    many = make(names=[f"x{i}" for i in range(101)])
    assert "101 categories: x0, " in many and many.count("x99, ...") == 1 and "x100" not in many


@pytest.mark.parametrize("line", ["{", '{"bbox": 3}', '{"step": "x", "bbox": {}}', "3"])
def test_a_broken_log_is_named(make, tmp_path, line):
    make()
    (tmp_path / "0" / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="metrics.jsonl is no log of a run"):
        model_card.write(tmp_path / "0", 8, "me/nuts", "A network", None)
