"""Fields of configs, command lines and the files of a run directory, of any content."""

import json
import os
from argparse import Namespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax import config_check, settings

# Imports take memory and time, so those of all commands come first.
from maskrcnn_jax.cli import config_file, convert, data, evaluate, export, outputs, plan, predict
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.lost_images import LostImages
from maskrcnn_jax.runs import left_out, metrics, run_directory
from maskrcnn_jax.weights import detectron2_config, mmdetection_config
from tests.fuzz import guard, mutations

COMMANDS = (convert, data, evaluate, export, plan, predict)
FIELDS = [field.name for field in settings.fields(Config())]
randoms = st.randoms(use_true_random=False)
texts = st.text(max_size=40) | st.sampled_from([x for x in mutations.ODD if isinstance(x, str)])
values = st.sampled_from([json.dumps(x)[:5000] for x in mutations.ODD] + ["1", "0.5", "None"])


@given(name=st.sampled_from(FIELDS) | texts, value=values | texts)
def test_settings_of_the_command_line(name, value):
    config = Config()
    with guard.limits("test_settings_of_the_command_line", len(name) + len(value)):
        try:
            config_file.override(config, f"{name}={value}")
            config_check.check(config)
        except ValueError as error:
            assert len(str(error)) < 6000
        else:
            assert settings.from_dict(Config, settings.to_dict(config)) == config


@given(rng=randoms)
def test_files_of_a_run(tmp_path, rng):
    entry = {"step": 1, "loss": 2.0, "bbox": {"AP": 0.5}, "validation": {"loss": 1.0}}
    lost = {"step": 1, "image_id": 2, "reason": "gone"}
    bad = {"files": ["coco", "a", "b", "c", "d"], "sets": {"train": {"1": "gone"}, "val": {}}}
    written = {"about": outputs._ABOUT, "files": {"a": {"command": "x", "sha256": None}}}
    good = {
        "config.json": settings.to_dict(Config()),
        "categories.json": Categories((1, 5), ("a", "b")).to_json(),
        "metrics.jsonl": entry,
        "lost_images.0.jsonl": lost,
        "left_out.json": bad,
        "outputs.json": written,
    }
    chosen = rng.choice(sorted(good))
    for name, content in good.items():
        content = mutations.value(rng, content) if name == chosen else content
        lines = 2 if name.endswith("jsonl") else 1
        text = "\n".join([json.dumps(content)] * lines).encode()
        if name == chosen and rng.random() < 0.3:
            text = mutations.content(rng, text) + b"[" * rng.choice((0, 0, 9000))
        (tmp_path / name).write_bytes(rng.choice((text, b"[" * 9000)) if name == chosen else text)
    with guard.limits("test_files_of_a_run", 20_000):
        try:
            config, categories = run_directory.read_settings(tmp_path)
            hash(settings.freeze(config)), hash(categories), "".join(categories.names)
            metrics.MetricsLog(tmp_path / "metrics.jsonl", 5, writes=False)
            LostImages(tmp_path).reason(1, 2)
            files = DataConfig("coco", "a", "b", "c", "d")
            found = left_out._read(tmp_path / "left_out.json", files)
            assert found is None or all(int(i) for i in found["sets"]["train"])
            outputs.check("x", [tmp_path / "new"])
        except (ValueError, OSError) as error:
            assert str(tmp_path) in str(error) and len(str(error)) < 6000


YAML = "VERSION: 2\nMODEL: {MASK_ON: true, RESNETS: {DEPTH: 50}}\n"
PYTHON = "model = dict(type='MaskRCNN', backbone=dict(depth=50))\ntest_pipeline = [dict(a=1)]\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{y}: &{y} [*{x},*{x},*{x},*{x},*{x},*{x},*{x},*{x},*{x}]\n"
    for x, y in zip("abcdefgh", "bcdefghi", strict=True)
)


@given(rng=randoms, kind=st.sampled_from((detectron2_config, mmdetection_config)))
def test_configs_of_other_libraries(tmp_path, rng, kind):
    text = rng.choice((YAML, BOMB)) if kind is detectron2_config else PYTHON
    content = mutations.content(rng, text.encode())
    content += rng.choice(
        (b"", b"", b"[" * 3000, b"x = " + b"-" * 9000 + b"1", b"!!python/name:os")
    )
    (tmp_path / "config").write_bytes(content)
    with guard.limits("test_configs_of_other_libraries", len(content)):
        try:
            kind.read(tmp_path / "config")
        except ValueError as error:
            assert str(tmp_path) in str(error) and len(str(error)) < 6000


OPTIONS = {
    "predict": ("--weights", "--artifact", "--output", "--score-threshold", "--top-k", "--ids"),
    "evaluate": ("--weights", "--config", "--output", "--report", "--augment", "--per-class"),
    "convert": ("--preset", "--channel-order", "--d2-config", "--mmdet-config", "--force"),
    "export": ("--weights", "--size", "--batch", "--input", "--score-threshold"),
    "plan": ("--config", "--devices", "--batch-per-device", "--stage", "--set", "--bucket"),
    "data browse": ("--images", "--annotations", "--config", "--set", "--image-id", "--output"),
    "data split": ("--images", "--annotations", "--fraction", "--seed", "--output"),
    "data check": ("--images", "--annotations", "--headers"),
    "data prepare": ("--images", "--annotations", "--split", "--output"),
}
FILES = ("weights.npz", "photo.jpg", "a.json", "config.py", "broken.py", "folder", "new", "train")
CONFIG = "from maskrcnn_jax.config import Config\ndef get_config():\n    return Config()\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "folder").mkdir()
    for name in ("weights.npz", "photo.jpg", "a.json"):
        (folder / name).write_bytes(b"{}")
    (folder / "config.py").write_text(CONFIG)
    (folder / "broken.py").write_text("def get_config(): return 1 / 0")
    return folder


def refuse(*_, **__):
    raise ValueError("the limit of this test")


words = st.sampled_from(FILES) | values | texts


@given(
    command=st.sampled_from(sorted(OPTIONS)),
    free=st.lists(words, max_size=2),
    options=st.lists(st.tuples(st.integers(0, 5), words), max_size=5),
)
def test_command_lines(place, monkeypatch, command, free, options):
    monkeypatch.chdir(place)
    monkeypatch.setattr(plan, "_devices", lambda *_: [Namespace(device_kind="none")])
    monkeypatch.setattr(plan, "make_plan", refuse)
    named = OPTIONS[command]
    pairs = [(named[i % len(named)], word) for i, word in options]
    line = [*command.split(), *free, *(word for pair in pairs for word in pair)]
    line = [word.replace("\0", "") for word in line]  # No system passes a zero character on.
    assert f"maskrcnn_jax.cli.{command.split()[0]}" in {module.__name__ for module in COMMANDS}
    with guard.limits("test_command_lines", sum(map(len, line)), base=1 << 30):
        try:
            code = main(line)
        except SystemExit as end:  # By argparse.
            code = end.code
    assert code in (0, 1, 2)
    assert os.getcwd() == str(place)
