"""Config files in any folder, and the fields that users may change."""

from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from maskrcnn_jax import config_check
from maskrcnn_jax.cli import config_file
from maskrcnn_jax.config import Config
from maskrcnn_jax.settings import differences


def test_a_config_may_import_its_neighbour(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "base.py").write_text(
        "from maskrcnn_jax.config import Config\nbase = Config(seed=5)\n"
    )
    (folder / "derived.py").write_text(
        "from experiments import base\ndef get_config():\n    return base.base\n"
    )
    assert config_file.read(folder / "derived.py").seed == 5


def test_a_config_may_lie_at_the_root(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    (tmp_path / "config.py").write_text("from maskrcnn_jax.config import Config as get_config\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "absolute", lambda self: Path("/config.py"))
        assert config_file.read(tmp_path / "config.py") == Config()


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
        ("execution.rematerialise=true", True),
        ("model.backbone.norm_eps=0", 0.0),
        ("model.rpn.nms_threshold=0.6", 0.6),
        ("optimizer.average_decay=0.99", 0.99),
        ("data.buckets=((832, 1344),)", ((832, 1344),)),
        ("execution.space=2", 2),
        ("model.mask_head=None", None),
    ],
)
def test_a_field_takes_its_value(setting, value):
    config = Config()
    config_file.override(config, setting)
    for name in setting.partition("=")[0].split("."):
        config = getattr(config, name)
    assert config == value and type(config) is type(value)


OPTIONAL = {
    "weights": "file.pth",
    "execution.num_devices": 2,
    "backbone_weights": "file.pth",
    "model.mask_head.max_samples": 8,
    "data.crop_size": 100,
    "optimizer.max_gradient_norm": 10.0,
    "optimizer.average_decay": 0.99,
}


def with_all_options():
    config = Config()
    for path, value in OPTIONAL.items():
        config_file.override(config, f"{path}={value}")
    return config


@pytest.mark.parametrize("path", OPTIONAL)
def test_an_optional_field_becomes_none_again(path):
    config = with_all_options()
    config_file.override(config, f"{path}=None")
    assert differences(with_all_options(), config) == [f"{path}: {OPTIONAL[path]} -> None"]


# ml_collections runs a config file by this deprecated method.
LOADS_MODULES = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def parsed(path, *overrides):
    """The config that train.py gets."""
    arguments = [
        "train.py",
        f"--config={path}",
        *(f"--config.{override}" for override in overrides),
    ]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    values(arguments)
    return holder.value


@pytest.fixture
def file_with_all_options(tmp_path):
    lines = ["from maskrcnn_jax.config import Config", "def get_config():", "    config = Config()"]
    lines += [f"    config.{path} = {value!r}" for path, value in OPTIONAL.items()]
    (tmp_path / "config.py").write_text("\n".join([*lines, "    return config"]))
    return tmp_path / "config.py"


@LOADS_MODULES
def test_flags_set_optional_fields_to_none_too(file_with_all_options):
    assert parsed(file_with_all_options) == with_all_options()
    assert parsed(file_with_all_options, *(f"{path}=None" for path in OPTIONAL)) == Config()
    overrides = "execution.num_devices=3", "weights=x", "optimizer.average_decay=0.5"
    changed = parsed(file_with_all_options, *overrides)
    assert changed.execution.num_devices == 3
    assert (changed.weights, changed.optimizer.average_decay) == ("x", 0.5)


@LOADS_MODULES
def test_flags_remove_the_mask_head(file_with_all_options):
    changed = parsed(file_with_all_options, "model.mask_head=None")
    assert changed.model.mask_head is None
    config_check.check(changed)


@LOADS_MODULES
@pytest.mark.parametrize("path", ["seed", "model.backbone.norm_eps", "model.dtype"])
def test_a_field_that_is_not_optional_is_never_none(path, file_with_all_options):
    with pytest.raises(ValueError, match=f"{path} must be of type .*got None"):
        config_file.override(Config(), f"{path}=None")
    with pytest.raises(ValueError, match=f"{path} must be of type .*got None"):
        config_check.check(parsed(file_with_all_options, f"{path}=None"))


@pytest.mark.parametrize(
    "setting",
    [
        "seed=x",
        "execution.rematerialise=1",
        "model.backbone.norm_eps=small",
        "model=3",
        "model.rpn=None",
        "data.buckets=3",
        "weights=3",
        "data.crop_size=1.5",
    ],
)
def test_a_value_of_another_type_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting.partition('=')[0]} must be of type"):
        config_file.override(Config(), setting)


@pytest.mark.parametrize(
    "setting",
    [
        "seeds=3",
        "model.rpn",
        "seed.more=1",
        "nothing.seed=1",
        "=3",
        "weights.x=1",
        "__class__.seed=1",
        "model.depth=18",
    ],
)
def test_a_field_that_does_not_exist_is_refused(setting):
    with pytest.raises(ValueError, match="names no field"):
        config_file.override(Config(), setting)


@pytest.mark.parametrize("value", ["(" * 5000, "-" * 9000 + "1", "x" * 9000, "[" * 300 + "]" * 300])
def test_a_strange_value_costs_one_short_message(value):
    for setting in (f"seed={value}", f"data.buckets={value}", f"{value}=1"):
        with pytest.raises(ValueError) as error:
            config_file.override(Config(), setting)
        assert len(str(error.value)) < 600
