"""`maskrcnn-jax plan --cost`, with a stand-in for the compilation."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from maskrcnn_jax.cli import cost_tables
from maskrcnn_jax.cli import plan as plan_command
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.planning import chips, devices
from maskrcnn_jax.planning.cost.cost import Cost
from maskrcnn_jax.planning.cost.launches import Launches
from maskrcnn_jax.planning.cost.schedule import Item, Loop, Price

LAUNCHES = Launches(launches=21, graphs=4, in_graphs=55, questions=2, sort_kernels=0)


def cost_on(device_kind):
    """Two instructions of 6 and 2 ms; the first has 0.4 TFLOP."""
    chip = chips.CHIPS[device_kind]
    items = [
        Item("copy.7", "bf16[8,4]{1,0}", "fpn", "modules/fpn.py:65", 2.0, Price("layout", 1e-3)),
        Item("copy-start", "", "rpn", "", 1.0, Price("copy beside the schedule", 0.0)),
        Item("fusion.1", "", "rpn", "", 1.0, Price("product", 6e-3, 9e-3, 4e11, 1e9, 0.0)),
    ]
    launched = None if isinstance(chip, chips.TPU) else LAUNCHES
    return Cost(chip, 8e-3, items, [Loop("ops/nms.py:172", 8)], launched)


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


def rows(printed):
    return [line.replace("│", " ").split() for line in printed.splitlines()]


def test_the_cost_on_a_tpu(command, priced, capsys, tmp_path):
    priced("TPU v5 lite")
    output = tmp_path / "plan.json"
    arguments = ["--devices", "2", "--cost", "--output", str(output)]
    assert main([*command, *arguments]) == 0
    printed = capsys.readouterr().out
    found = rows(printed)
    assert ["rpn", "6.000", "75.0%", "9.000", "400.0", "1.000"] in found
    assert ["layout", "2.000", "25.0%", "2.000", "0.0", "0.000"] in found
    assert any(row[:2] == ["fusion.1", "6.000"] and "34%" in row for row in found)
    assert "modules/fpn.py:65" in printed and "25.4% of 197 TFLOP/s" in printed
    assert "assumed: 8 turns of the loop at ops/nms.py:172" in printed
    assert "Not measured" in printed and "constants not checked" not in printed
    # 8 images on 2 devices take 8 ms.
    last = "predicted 2.00 ms per image, 500.0 images/s (priced by the compiler, not run)"
    assert printed.rstrip().splitlines()[-1] == last
    numbers = json.loads(output.read_text())["cost"]
    assert numbers["seconds"] == 8e-3 and numbers["stages"]["rpn"]["estimate"] == 9e-3
    assert [x["name"] for x in numbers["instructions"]] == [*("fusion.1", "copy.7", "copy-start")]


def test_the_cost_on_a_gpu(command, priced, capsys):
    priced("NVIDIA H100 80GB HBM3")
    assert main([*command, "--devices", "1", "--cost"]) == 0
    printed = capsys.readouterr().out
    assert ["fpn", "2.000", "25.0%", "2", "0.0", "0.000"] in rows(printed)
    assert "21, 4 of them CUDA graphs with 55 kernels" in printed
    assert ["questions", "of", "the", "host", "2"] in rows(printed)


def test_constants_that_nobody_checked_are_told():
    assert any("constants not checked" in note for note in cost_tables.notes(cost_on("TPU v4")))


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
