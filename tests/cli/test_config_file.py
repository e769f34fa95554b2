"""Config files from anywhere, and what may be changed in them."""

import pytest

from maskrcnn_jax.cli import config_file
from maskrcnn_jax.config import Config


def test_a_config_may_import_its_neighbour(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "base.py").write_text("from maskrcnn_jax.config import Config\nbase = Config(seed=5)\n")
    (folder / "derived.py").write_text("from experiments import base\ndef get_config():\n    return base.base\n")
    assert config_file.read(folder / "derived.py").seed == 5


@pytest.mark.parametrize("name, text", [("a.txt", ""), ("a.py", "x = 1")])
def test_a_file_that_is_no_config(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        config_file.read(tmp_path / name)


@pytest.mark.parametrize(
    "setting, value",
    [
        ("seed=7", 7),
        ("weights=COCO_V1", "COCO_V1"),
        ("model.dtype=bfloat16", "bfloat16"),
        ("model.rematerialise=true", True),
        ("model.norm_eps=0", 0.0),
        ("model.rpn.nms_threshold=0.6", 0.6),
        ("optimizer.average_decay=0.99", 0.99),
        ("data.buckets=((832, 1344),)", ((832, 1344),)),
    ],
)
def test_a_field_takes_its_value(setting, value):
    config = Config()
    config_file.override(config, setting)
    for name in setting.partition("=")[0].split("."):
        config = getattr(config, name)
    assert config == value and type(config) is type(value)


@pytest.mark.parametrize(
    "setting", ["seed=x", "model.rematerialise=1", "model.norm_eps=small", "model=3", "data.buckets=3"]
)
def test_a_value_of_another_type_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting.partition('=')[0]} must be of type"):
        config_file.override(Config(), setting)


@pytest.mark.parametrize("setting", ["seeds=3", "model.rpn", "seed.more=1", "nothing.seed=1", "=3", "weights.x=1"])
def test_a_field_that_does_not_exist_is_refused(setting):
    with pytest.raises(ValueError, match="names no field"):
        config_file.override(Config(), setting)
