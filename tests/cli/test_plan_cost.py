"""`maskrcnn-jax plan --cost`, with a stand-in for the compilation."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from maskrcnn_jax.cli import plan as plan_command
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.planning import devices
from tests.cli.conftest import cost_on


@pytest.fixture
def priced(planned, monkeypatch):
    """Lets plans have a cost on a chip."""
    without = plan_command.make_plan

    def on(device_kind):
        def make_plan(*arguments, **wanted):
            assert wanted["dump"].is_dir()
            return without(*arguments, **wanted)._replace(cost=cost_on(device_kind))

        monkeypatch.setattr(plan_command, "make_plan", make_plan)
        return planned

    return on


def test_the_cost_is_printed_and_written(command, priced, capsys, tmp_path):
    priced("TPU v5 lite")
    output = tmp_path / "plan.json"
    arguments = ["--devices", "2", "--cost", "--output", str(output)]
    assert main([*command, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "dearest instructions" in printed and "Not measured" in printed
    # 8 images on 2 devices take 8 ms.
    last = "predicted 2.00 ms per image, 500.0 images/s (priced by the compiler, not run)"
    assert printed.rstrip().splitlines()[-1] == last
    assert json.loads(output.read_text())["cost"]["seconds"] == 8e-3


def test_program_and_stage_are_passed_on(command, planned, capsys):
    arguments = ["--program", "detect", "--stage", "fpn", "--devices", "4"]
    assert main([*command, *arguments, "--batch-per-device", "3"]) == 0
    config, _, _, wanted = planned[0]
    assert wanted == {"program": "detect", "stage": "fpn", "dump": None}
    assert config.batch_size == 3  # A stage takes one device.
    assert "detect, fpn" in capsys.readouterr().out


def test_fewer_devices_by_the_config(command, planned):
    limit = ["--set", "execution.num_devices=2", "--batch-per-device", "3"]
    assert main([*command, "--devices", "4", *limit]) == 0
    assert planned[0][0].batch_size == 6


def test_a_cpu_has_no_prices(command, capsys):
    assert main([*command, "--devices", "1", "--cost"]) == 2
    assert "there are no prices for 'cpu'" in capsys.readouterr().err


def test_an_unknown_gpu(command, capsys):
    assert main([*command, "--gpu", "gtx"]) == 2
    assert "no GPU 'gtx' to compile for, only h100 and h200" in capsys.readouterr().err


def test_the_compiler_for_gpus_is_asked_for(command, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*command, "--gpu", "h100"]) == 2
    assert "pip install 'maskrcnn-jax[gpu-compiler]'" in capsys.readouterr().err


def test_a_gpu_gets_a_process_of_its_own(command, monkeypatch):
    started = []

    def run(arguments, env):
        started.append((arguments, env))
        return subprocess.CompletedProcess(arguments, 7)

    monkeypatch.setattr(plan_command, "check_gpu", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_hlo_as_text")
    arguments = [*command, "--gpu", "h100", "--gpu-count", "2", "--cost"]
    assert main(arguments) == 7
    ((again, environment),) = started
    assert again == [sys.executable, "-m", "maskrcnn_jax", *arguments]
    assert environment["JAX_PLATFORMS"] == "cpu"
    flags = environment["XLA_FLAGS"].split()
    assert flags[0] == "--xla_dump_hlo_as_text" and "--xla_gpu_autotune_level=0" in flags
    # In that process nothing is missing, so it starts no other.
    assert devices.gpu_environment(environment) == environment != dict(os.environ)
