"""Requirements of the installed package."""

import re
import tomllib

import pytest

from maskrcnn_jax.cli import requirements
from tests.markdown import ROOT

INSTALLED = {
    "jax": "0.11.0",
    "jaxlib": "0.10.2",
    "av": "13.1",
    "scipy": "1.17.1",
    "libtpu": "0.0.9",
}


NEEDED = [
    "jaxlib<=0.11.0,>=0.11.0",
    'jaxlib==0.10.9; extra == "minimum-jaxlib"',
    "libtpu==0.0.42.*; extra == 'tpu'",
    'jax-cuda13-plugin[with-cuda]<=0.11,>=0.11; extra == "cuda13"',
    "scipy>=1.14",
    'scipy>=99; python_version >= "3.99"',
    "msgpack",
]


def test_versions_that_do_not_fit_together(monkeypatch):
    monkeypatch.setattr(requirements.importlib.metadata, "requires", lambda package: NEEDED)
    monkeypatch.setattr(requirements, "installed", INSTALLED.get)
    assert list(requirements.unmet("jax")) == [
        "jax needs jaxlib<=0.11.0,>=0.11.0, but jaxlib 0.10.2 is installed",
        "jax needs libtpu==0.0.42.*, but libtpu 0.0.9 is installed",
        "jax needs msgpack, which is not installed",
    ]


def test_a_package_that_is_not_installed_needs_nothing():
    assert requirements.of("no-such-package-of-anyone") == []


@pytest.mark.parametrize(
    "versions, version, allowed",
    [
        ("", "1", True),
        (">=14", "13.9", False),
        (">=14", "14", True),
        (">=0.10.2,<1", "0.10.10", True),
        (">=0.10.2, <1", "1.0", False),
        ("==2.6", "2.6.0", True),
        ("!=2.6", "2.6", False),
        (">2", "2.0.0", False),
        ("==0.0.42.*", "0.0.42.1", True),
        ("==0.0.42.*", "0.0.4", False),
        ("<=2.13.0", "2.13.0+cpu", True),
        ("~=1.0", "2.0", True),
    ],
)
def test_clauses_of_versions(versions, version, allowed):
    assert requirements.allows(versions, version) is allowed


def test_every_requirement_of_the_project_is_understood(monkeypatch):
    """Otherwise the doctor would be silent about it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"]
    for extra, packages in project["optional-dependencies"].items():
        lines += [f"{package}; extra == '{extra}'" for package in packages]
    monkeypatch.setattr(requirements.importlib.metadata, "requires", lambda package: lines)
    found = requirements.of("maskrcnn-jax")
    assert len(found) == len(lines)
    for name, versions, _ in found:
        assert re.fullmatch(r"[A-Za-z][\w-]+", name) and re.fullmatch(r"(>=[\d.]+)?", versions)
