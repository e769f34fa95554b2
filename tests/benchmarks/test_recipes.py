"""The scripts of recipes: their settings, the file of results, and what follows from it."""

import json

import pytest

from benchmarks.recipes import __main__ as command
from benchmarks.recipes import results, settings, tables
from maskrcnn_jax.config_check import check
from maskrcnn_jax.evaluation import Evaluation
from maskrcnn_jax.settings import differences


@pytest.fixture
def data(tmp_path):
    """A folder with annotations of 12 images of fruits."""
    images = [{"id": i, "width": 8, "height": 8, "file_name": f"{i}.png"} for i in range(7, 19)]
    objects = [{"id": i, "image_id": 7 + i % 12, "category_id": 1} for i in range(30)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "nut"}]}
    (tmp_path / "fruits_nuts").mkdir()
    (tmp_path / "fruits_nuts" / "instances_train.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("name", settings.NAMES)
def test_every_recipe_is_possible(data, name):
    config = settings.recipe(name, 3, data, "start.npz", data / "run")
    check(config)
    assert config.seed == 3 and "start.npz" in (config.weights, config.backbone_weights)


def test_the_comparison_has_the_schedule_and_the_targets_of_torchvision(data):
    config = settings.recipe("comparison", 0, data, "x", data)
    assert (config.num_steps, config.batch_size) == (405, 4)
    assert config.optimizer.learning_rate * config.batch_size / 16 == pytest.approx(0.01)
    assert [x / 405 for x in config.optimizer.decay_steps] == pytest.approx([0.75, 0.92], abs=2e-3)
    assert config.model.mask_head.max_samples is None and config.data.mask_store == "full"


def test_an_ingredient_is_the_only_change(data):
    short = settings.recipe("short", 0, data, "x", data)
    for name, fields in settings.INGREDIENTS.items():
        changed = settings.recipe(f"short-{name}", 0, data, "x", data)
        found = {x.partition(":")[0] for x in differences(short, changed)}
        assert found == {x.partition("=")[0] for x in fields}


def test_folds_hold_out_every_image_once(data):
    held_out = []
    for fold in range(settings.NUM_FOLDS):
        settings.recipe(f"fruits-{fold}", 0, data, "x", data / str(fold))
        parts = [json.loads((data / f"{fold}/fold_{x}.json").read_text()) for x in ("train", "val")]
        ids = [{image["id"] for image in part["images"]} for part in parts]
        assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 12
        assert sum(len(part["annotations"]) for part in parts) == 30
        for part, own in zip(parts, ids, strict=True):
            assert {entry["image_id"] for entry in part["annotations"]} <= own
        held_out += sorted(ids[1])
    assert sorted(held_out) == list(range(7, 19))


def entry(program, seed, ap, recipe="comparison", minutes=45.0):
    numbers = {"AP": ap, "AP50": 0.8, "AP75": 0.5}
    own = {"recipe": recipe, "program": program, "seed": seed, "steps": 405, "minutes": minutes}
    return own | {"segm": numbers, "bbox": numbers}


def test_the_difference_pairs_the_seeds():
    """By hand: differences -0.02, 0.00, -0.01; deviation 0.01, 4.303 * 0.01 / sqrt(3)."""
    ours = [entry("ours", i, ap) for i, ap in enumerate((0.54, 0.56, 0.55, 0.9))]
    theirs = [entry("torchvision", i, 0.56) for i in range(3)]
    assert results.difference([*ours, *theirs[:1]]) is None
    found = results.difference([*ours, *theirs, entry("ours", 0, 0.1, "best")])
    assert found.num_seeds == 3 and found.mean == pytest.approx(-0.01)
    assert found.high - found.mean == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert found.passed and not found._replace(high=-0.001).passed
    assert found._replace(mean=-0.004, low=-0.0041, high=-0.0039).passed


def test_tables_have_every_run():
    assert "No run" in tables.tables([])
    runs = [entry("torchvision", 0, 0.561), entry("ours", 1, 0.55), entry("ours", 0, 0.56)]
    text = tables.tables([*runs, entry("ours", 0, 0.6, "fruits-2", None)])
    rows = [line.split(" | ")[:3] for line in text.splitlines() if line.startswith("| com")]
    assert rows == [
        ["| comparison", x, y] for x, y in (("ours", "0"), ("ours", "1"), ("torchvision", "0"))
    ]
    assert "| fruits-2 | ours | 0 | 405 | 0.600 / 0.800 | 0.600 / 0.800 | - |" in text
    assert "over" not in text  # One common seed has no deviation.


class Trainer:
    """Stands in for a training that is stopped once, and then goes on."""

    def __init__(self):
        self.calls = []

    def __call__(self, config, workdir):
        self.calls.append((config.num_steps, workdir.name))
        (workdir / "metrics.jsonl").write_text(
            '{"step": 15, "loss": 2.0}\n{"step": 15, "bbox": 1}\n'
        )
        if len(self.calls) == 1:
            raise KeyboardInterrupt
        numbers = {"AP": 0.5, "AP50": 0.7, "AP75": 0.6, "APs": 0.1}
        return Evaluation(numbers, numbers, {}, {}, {}, [])


def test_a_stopped_run_goes_on_and_a_finished_one_is_not_repeated(data, monkeypatch, capsys):
    trainer = Trainer()
    monkeypatch.setattr(command, "_trainer", lambda program: trainer)
    path = data / "results.json"
    arguments = ["--recipe", "comparison", "--program", "torchvision", "--seed", "2"]
    arguments += ["--data", data, "--start", "x.npz", "--runs", data / "runs", "--results", path]
    arguments = list(map(str, arguments))
    with pytest.raises(KeyboardInterrupt):
        command.main(arguments)
    assert not path.exists()
    for _ in range(2):
        command.main(arguments)
    assert trainer.calls == [(405, "comparison_torchvision_2")] * 2
    assert "already" in capsys.readouterr().out
    (found,) = results.read(path)
    assert found["segm"] == {"AP": 0.5, "AP50": 0.7, "AP75": 0.6} and found["minutes"] == 0
    assert found["curve"] == {"step": [15], "loss": [2.0]}
    tables.main(["--results", str(path)])
    assert "| comparison | torchvision | 2 | 405 | 0.500 / 0.700" in capsys.readouterr().out


def test_a_killed_session_has_no_minutes(tmp_path):
    with command.session(tmp_path):
        pass
    assert results.minutes(tmp_path) == 0
    with (tmp_path / "sessions.jsonl").open("a") as file:
        file.write('{"begun": "2026-01-01T00:00:00"}\n')
    assert results.minutes(tmp_path) is None


def test_the_page_of_results_has_the_tables_of_the_file():
    page = (results.FILE.parent / "results.md").read_text()
    begin, end = "python -m benchmarks.recipes.tables -->\n", "<!-- End of the output. -->"
    shown = page.partition(begin)[2].partition(end)[0]
    assert shown == tables.tables(results.read(results.FILE))


@pytest.mark.slow
def test_the_losses_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    curve = {"curve": {"step": [15, 30], "loss": [2.0, 1.5]}}
    tables.plot(
        [entry("ours", 0, 0.5) | curve, entry("torchvision", 0, 0.5) | curve], tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
