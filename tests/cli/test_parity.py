"""`maskrcnn-jax parity`: exit codes and messages, without a comparison."""

import argparse
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import main, parity
from maskrcnn_jax.config import Config
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.parity import comparison, recipe, report

ARGUMENTS = ["parity", "--random", "v1"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture
def no_models(monkeypatch):
    """Replaces torchvision's model and ours."""
    reference = SimpleNamespace(peer=lambda *args, **sizes: None)
    monkeypatch.setitem(sys.modules, "maskrcnn_jax.parity.reference", reference)
    monkeypatch.setattr("maskrcnn_jax.parity.reference", reference, raising=False)
    monkeypatch.setattr(parity, "_model", lambda args: ("made up", Config(), None))
    jax_model = SimpleNamespace(model=SimpleNamespace(run=Execution()))
    monkeypatch.setattr(parity, "JaxModel", lambda *args, **sizes: jax_model)
    monkeypatch.setattr(comparison, "Comparer", lambda *args: None)


def test_without_torch_the_extra_is_named(monkeypatch, capsys, image):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "maskrcnn_jax.parity.reference", raising=False)
    monkeypatch.delattr("maskrcnn_jax.parity.reference", raising=False)
    assert main.main([*ARGUMENTS, image]) == 2
    assert "pip install 'maskrcnn-jax[parity]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "family, package, named",
    [
        ("detectron2", "detectron2", "DETECTRON2 name a checkout"),
        ("mmdet", "mmcv", "pip install mmdet, and mmcv"),
    ],
)
def test_without_the_program_of_a_family_the_way_to_it_is_named(
    monkeypatch, capsys, image, family, package, named
):
    name = parity.PEERS[family]
    monkeypatch.delenv("DETECTRON2", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "maskrcnn_jax.parity.reference", SimpleNamespace(torch=None))
    monkeypatch.delitem(sys.modules, f"maskrcnn_jax.parity.{name}", raising=False)
    assert main.main(["parity", "--family", family, image]) == 2
    assert named in capsys.readouterr().err


def test_a_checkout_without_the_package_is_refused(monkeypatch, capsys, image, tmp_path):
    monkeypatch.setenv("DETECTRON2", str(tmp_path))
    monkeypatch.setitem(sys.modules, "maskrcnn_jax.parity.reference", SimpleNamespace(torch=None))
    for name in ("detectron2", "maskrcnn_jax.parity.detectron2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main.main(["parity", "--family", "detectron2", image]) == 2
    assert f"DETECTRON2 names {tmp_path}, which is no checkout" in capsys.readouterr().err


def test_mistakes_are_refused(no_models, capsys, image):
    assert main.main([*ARGUMENTS, "nowhere.png"]) == 2
    assert "nowhere.png" in capsys.readouterr().err
    assert main.main([*ARGUMENTS, image, "--short-side", "900", "--max-long-side", "800"]) == 2
    assert "900 and 800" in capsys.readouterr().err
    assert main.main(["parity", "--random", "mmdet_r50_fpn", image]) == 2
    assert "mmdet_r50_fpn is not of torchvision, which has v1," in capsys.readouterr().err


def test_without_a_name_the_first_random_model_of_the_family_is_taken(monkeypatch):
    drawn = []
    monkeypatch.setattr(recipe, "variables", lambda config, seed: drawn.append(seed) or {})
    for name, title in ((None, "mmdet_r50_fpn"), ("mmdet_r50_fpn_gn", "mmdet_r50_fpn_gn")):
        args = argparse.Namespace(weights=None, random=name, family="mmdet", seed=3)
        found, config, variables = parity._model(args)
        assert found == f"{title}, random weights of seed 3" and variables == {}
        assert config.model.roi.level_rule == "mmdetection"
    assert drawn == [3, 3]


@pytest.mark.parametrize("tolerance, code", [(1.0, 0), (0.0, 1)])
def test_the_verdict_is_the_exit_code(
    no_models, monkeypatch, capsys, tmp_path, image, tolerance, code
):
    def run(comparer, paths, *, title, advance):
        found = report.Comparison("each image alone", 1, 5, 5, 5)
        stage = report.Stage("C2", "relative", tolerance, error=0.5)
        return report.Report(title, "torchvision", [stage], [found], {"images": len(paths)})

    monkeypatch.setattr(comparison, "run", run)
    output = tmp_path / "report.json"
    assert main.main([*ARGUMENTS, image, "--output", str(output)]) == code
    assert "| C2 | 5.0e-01" in capsys.readouterr().out
    assert f'"passed": {"true" if code == 0 else "false"}' in output.read_text()
