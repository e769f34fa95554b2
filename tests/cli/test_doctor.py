"""`maskrcnn-jax doctor`: the report, and each problem that it knows."""

import shutil
import sys
import tomllib
from types import SimpleNamespace

import jax
import pytest

import maskrcnn_jax
from maskrcnn_jax.cli import doctor, requirements
from maskrcnn_jax.cli.main import main
from tests.markdown import ROOT


@pytest.fixture(autouse=True)
def healthy(monkeypatch, tmp_path):
    """A machine without a problem, but for those that a test adds."""
    monkeypatch.setenv("MASKRCNN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**40))


def test_the_report_of_a_machine_without_problems(capsys, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "program").write_bytes(bytes(2**27))
    assert main(["doctor"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["maskrcnn-jax"].startswith(maskrcnn_jax.__version__)
    assert lines["jax"] == jax.__version__
    assert f"{len(jax.devices())} x cpu" in lines["devices"]
    assert lines["cache"].endswith("/cache, 0.1 GiB")
    assert lines["problems"] == "none known"


def test_the_home_folder_is_not_shown(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "~/cache, 0.0 GiB" in printed and str(tmp_path) not in printed


def test_a_jax_that_cannot_be_imported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    assert main(["doctor"]) == 1
    assert "jax cannot be used: ModuleNotFoundError" in capsys.readouterr().out


def test_a_disk_that_is_almost_full(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**29))
    assert ["less than 1.0 GiB is free" in problem for problem in doctor.folder_problems()] == [
        True,
        True,
    ]


def test_a_cache_that_all_users_may_write_to(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    (problem,) = doctor.folder_problems()
    assert "all users may write to the cache" in problem


def test_a_jaxlib_whose_error_is_not_avoided(monkeypatch):
    monkeypatch.setattr(requirements, "of", lambda package: [])
    monkeypatch.setattr(doctor.jaxlib_errors, "WITH_WRONG_YNNPACK", (jax.lib.__version__,))
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_cpu_experimental_ynn_fusion_type=dot")
    (problem,) = doctor.version_problems()
    assert "computes wrong numbers on CPUs" in problem
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_cpu_experimental_ynn_fusion_type=")
    assert list(doctor.version_problems()) == []


@pytest.mark.parametrize(
    "files, platforms, asked, told",
    [
        (["nvidiactl"], ["cpu"], None, ["jax[cuda13]"]),
        (["accel0", "accel1"], ["cpu"], None, ["jax[tpu]"]),
        (["nvidiactl"], ["cpu"], "cpu", []),
        (["nvidiactl"], ["gpu"], None, []),
        ([], ["cpu", "cpu"], None, []),
    ],
)
def test_accelerators_that_jax_does_not_use(files, platforms, asked, told, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if asked:
        monkeypatch.setenv("JAX_PLATFORMS", asked)
    for name in files:
        (tmp_path / name).touch()
    devices = [SimpleNamespace(platform=platform) for platform in platforms]
    found = list(doctor.device_problems(devices, tmp_path))
    assert len(found) == len(told) and all(a in b for a, b in zip(told, found, strict=True))


def test_extras(monkeypatch):
    needed = [
        "jax",
        "jax; extra == 'x'",
        "a>=1; extra == 'x'",
        "b; extra == 'x'",
        "c; extra == 'y'",
    ]
    monkeypatch.setattr(requirements.importlib.metadata, "requires", lambda package: needed)
    monkeypatch.setattr(requirements, "installed", {"jax": "0.11.0", "a": "1.5"}.get)
    assert list(doctor.extras()) == [
        ("extra x", "a 1.5, b not installed"),
        ("extra y", "not installed"),
    ]


def test_the_names_of_extras_fit_their_column():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    longest = max(map(len, project["optional-dependencies"]))
    assert len("extra ") + longest < doctor._NAME_WIDTH
