"""The command `maskrcnn-jax plan`, with a stand-in for the compilation."""

import importlib.util
import json

import jax
import pytest

from maskrcnn_jax.cli import config_file
from maskrcnn_jax.cli import plan as plan_command
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config


def test_numbers_are_printed_and_written(command, planned, tmp_path, capsys):
    assert main([*command, "--devices", "4", "--output", str(tmp_path / "plan.json")]) == 0
    printed = capsys.readouterr().out
    for words in (
        "4 x chip",
        "8 images of 800x1344",
        "2 per device",
        "61.0 s",
        "3.00 GiB of 4.00 GiB",
        "7.00 GiB",
        "3.000 TFLOP",
    ):
        assert words in printed
    assert ["all-reduce", "7", "2", "5.0"] in [
        line.replace("│", " ").split() for line in printed.splitlines()
    ]
    numbers = json.loads((tmp_path / "plan.json").read_text())
    assert (
        numbers["memory"]["peak"] == 3 << 30 and numbers["collectives"]["all-reduce"]["count"] == 7
    )
    assert numbers["versions"]["jax"] == jax.__version__ and numbers["config"]["batch_size"] == 8


def test_the_config_is_changed_as_asked(command, planned):
    changes = [
        "--set",
        "model.dtype=bfloat16",
        "--set",
        "execution.rematerialise=true",
        "--set",
        "seed=3",
    ]
    assert (
        main([*command, "--devices", "2", "--batch-per-device", "3", "--bucket", "64x96", *changes])
        == 0
    )
    config, devices, bucket, _ = planned[0]
    assert (config.model.dtype, config.execution.rematerialise, config.seed) == (
        "bfloat16",
        True,
        3,
    )
    assert config.batch_size == 6 and len(devices) == 2 and bucket == (64, 96)


def test_each_device_has_an_image(command, planned):
    assert main([*command, "--devices", "8", "--set", "batch_size=2"]) == 0
    assert planned[0][0].batch_size == 8


def test_devices_that_share_images_have_them_together(command, planned, capsys):
    assert (
        main([*command, "--devices", "4", "--set", "execution.space=2", "--batch-per-device", "1"])
        == 0
    )
    assert planned[0][0].batch_size == 2
    assert "0.5 per device" in capsys.readouterr().out


def test_memory_that_falls_short_is_1(command, planned, monkeypatch, capsys):
    small = plan_command.make_plan

    def large(*arguments, **wanted):
        return small(*arguments, **wanted)._replace(device_memory=1 << 30)

    monkeypatch.setattr(plan_command, "make_plan", large)
    assert main([*command, "--devices", "1"]) == 1
    assert "3.00 GiB of 1.00 GiB" in capsys.readouterr().out

    def refuse(*arguments, **wanted):
        raise MemoryError("20G of 16G")

    monkeypatch.setattr(plan_command, "make_plan", refuse)
    assert main([*command, "--devices", "1"]) == 1
    assert "20G of 16G" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--devices", "3"], "batch_size=8 cannot be divided among 3 devices"),
        (
            ["--devices", "4", "--set", "execution.space=3"],
            "execution.space=3 does not divide the number of devices, 4",
        ),
        (
            ["--devices", "2", "--set", "execution.space=2", "--bucket", "96x64"],
            "heights must be multiples of 64",
        ),
        (["--devices", "2", "--output", "nowhere/plan.json"], "there is no directory"),
        (["--devices", "9"], "allow 8 devices only, not 9"),
        (["--devices", "2", "--set", "model.size=3"], "'model.size=3' names no field"),
        (["--devices", "2", "--set", "model"], "'model' names no field"),
        (
            ["--devices", "2", "--set", "model.backbone.depth=deep"],
            "model.backbone.depth must be of type int, got 'deep'",
        ),
    ],
)
def test_mistakes_are_one_message(command, arguments, message, capsys):
    assert main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("maskrcnn-jax plan: ") and message in error and error.count("\n") == 1


def test_a_missing_config_is_one_message(tmp_path, capsys):
    assert main(["plan", "--config", str(tmp_path / "none.py"), "--devices", "1"]) == 2
    assert "there is no config file" in capsys.readouterr().err


def test_libtpu_is_asked_for(command, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(config_file, "read", lambda path: Config())
    assert main([*command, "--topology", "v5e:2x2"]) == 2
    assert "pip install 'maskrcnn-jax[tpu]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--devices", "0"], ["--devices", "2", "--topology", "v5e:2x2"], ["--bucket", "800"]],
)
def test_wrong_arguments_exit_with_2(command, arguments):
    with pytest.raises(SystemExit) as exit:
        main([*command, *arguments])
    assert exit.value.code == 2
