"""Run directories: what may differ when a run goes on, and what is refused."""

import dataclasses
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from maskrcnn_jax import distributed
from maskrcnn_jax.config import Config
from maskrcnn_jax.runs import run_directory
from tests.runs.test_checkpoints import CATEGORIES


@pytest.fixture
def one_goes_first(monkeypatch):
    """Makes the thread of the test process 0, and other threads other processes."""
    first = threading.current_thread()
    monkeypatch.setattr(distributed, "is_first", lambda: threading.current_thread() is first)


def test_another_kind_of_optimizer_is_refused(tmp_path):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    changed = Config()
    changed.optimizer.name, changed.optimizer.average_decay = "adamw", 0.99
    with pytest.raises(
        ValueError, match=r"optimizer\.name: sgd -> adamw; optimizer\.average_decay: None -> 0.0"
    ):
        run_directory.write_run(tmp_path, changed, CATEGORIES)


def test_other_settings_may_change_between_runs(tmp_path):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    changed = Config(num_steps=7)
    changed.optimizer.max_gradient_norm, changed.optimizer.decay = 10.0, "kernels"
    run_directory.write_run(tmp_path, changed, CATEGORIES)
    assert run_directory.read_settings(tmp_path)[0] == changed


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "events.out.tfevents.1.x"])
def test_a_directory_with_files_of_others_is_no_new_run(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"is no run, .* but has {name}: use a new --workdir"):
        run_directory.write_run(tmp_path, Config(), CATEGORIES)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def another(value):
    """Another value of the same type, which need not be allowed."""
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, value[-1] if value else 1.0)
    return value + ("x" if isinstance(value, str) else 1)


@pytest.mark.parametrize(
    "part", ["model", "backbone", "fpn", "rpn", "roi", "box_head", "mask_head"]
)
def test_any_other_difference_in_the_model_is_refused_by_its_name(tmp_path, part):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    path = "model" if part == "model" else f"model.{part}"
    own = Config().model if part == "model" else getattr(Config().model, part)
    names = [field.name for field in dataclasses.fields(own)]
    for name in names:
        value, config = getattr(own, name), Config()
        if dataclasses.is_dataclass(value):
            continue
        target = config.model if part == "model" else getattr(config.model, part)
        setattr(target, name, another(value))
        message = re.escape(f"changed: {path}.{name}: {value} -> {another(value)}")
        with pytest.raises(ValueError, match=f"{message}$"):
            run_directory.write_run(tmp_path, config, CATEGORIES)


def test_a_model_without_its_mask_head_is_another_model(tmp_path):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    changed = Config()
    changed.model.mask_head = None
    with pytest.raises(ValueError, match=r"changed: model.mask_head: MaskHeadConfig\(.*\) -> None"):
        run_directory.write_run(tmp_path, changed, CATEGORIES)


@pytest.mark.usefixtures("one_goes_first")
def test_one_process_writes_and_the_others_check(tmp_path):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    changed = Config()
    changed.model.backbone.depth = 101
    together = threading.Barrier(3)

    def write(config):
        together.wait()
        for _ in range(50):
            run_directory.write_run(tmp_path, config, CATEGORIES)

    with ThreadPoolExecutor(3) as pool:
        results = [
            pool.submit(write, config) for config in (Config(), Config(num_steps=7), changed)
        ]
    assert results[0].exception() is results[1].exception() is None
    assert "model.backbone.depth: 50 -> 101" in str(results[2].exception())
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("one_goes_first")
def test_processes_that_do_not_share_the_directory_are_told(tmp_path):
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(FileNotFoundError, match="config.json.* all processes need one"),
    ):
        pool.submit(run_directory.write_run, tmp_path, Config(), CATEGORIES).result()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        run_directory.load_run(tmp_path)


def test_a_run_without_checkpoints_is_refused(tmp_path):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        run_directory.load_run(tmp_path)


@pytest.mark.parametrize("content", [b'{"model": ', b"\xff\xfe{", b"[" * 9000, b'{"seed": "1"}'])
def test_a_broken_config_is_named(tmp_path, content):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json"):
        run_directory.load_run(tmp_path)


@pytest.mark.parametrize("entry", [{"id": 1, "name": 5}, {"id": "1", "name": "a"}, {"id": 1}, 5])
def test_broken_categories_are_named(tmp_path, entry):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    (tmp_path / "categories.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="categories.json"):
        run_directory.load_run(tmp_path)
