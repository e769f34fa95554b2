"""The one place that chooses how the network is computed."""

import re
from pathlib import Path

import jax
import pytest
from jax.sharding import AxisType

from maskrcnn_jax import execution
from maskrcnn_jax.config import ExecutionConfig
from maskrcnn_jax.execution import Execution, choose

PACKAGE = Path(execution.__file__).parent


def mesh_of(data, space):
    axes = {"axis_types": (AxisType.Auto,) * 2, "devices": jax.devices()[: data * space]}
    return jax.make_mesh((data, space), ("data", "space"), **axes)


def on(platform, monkeypatch, **settings):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    return choose(ExecutionConfig(**settings))


def test_the_default_is_the_plain_network():
    assert Execution() == Execution(
        jax.vmap,
        jax.vmap,
        1,
        execution._identity,
        "gather",
        "gather",
        False,
        (),
        None,
        None,
        False,
        False,
    )


def test_a_single_cpu_saves_memory(monkeypatch):
    run = on("cpu", monkeypatch)
    assert run.small_on_cpu and run.rpn_windows and run.recompute == ("strided", "top_down")
    assert run.mask_chunk == 20 and run.upsample_chunk == 32


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_nothing_that_serves_a_cpu_runs_elsewhere(monkeypatch, platform):
    form = {"gpu": "gather", "tpu": "einsum"}[platform]
    monkeypatch.setattr(execution, "SLOW_ATOMICS", False)
    plain = Execution(align_form=form, align_gradient=form)
    assert on(platform, monkeypatch) == plain


def test_several_cpus_have_no_barriers():
    run = choose(mesh=mesh_of(2, 1))
    assert not run.small_on_cpu and run.upsample_chunk is None and run.recompute == ()
    assert run.rpn_windows and run.mask_chunk == 20


def test_devices_that_share_rows_multiply_matrices():
    run = choose(ExecutionConfig(align_form="gather", rpn_gradient="windows"), mesh_of(1, 8))
    assert run.row_shards == 8 and run.per_pyramid is jax.vmap and run.per_image is not jax.vmap
    assert run.align_form == run.align_gradient == "einsum" and not run.rpn_windows


@pytest.mark.parametrize(
    "settings, slow, expected",
    [
        ({}, False, ("gather", "gather")),
        ({}, True, ("gather", "einsum")),
        ({"deterministic": True}, False, ("gather", "einsum")),
        ({"align_form": "gather"}, True, ("gather", "gather")),
        ({"align_form": "einsum"}, False, ("einsum", "einsum")),
    ],
)
def test_forms_of_roi_align_on_a_gpu(monkeypatch, settings, slow, expected):
    monkeypatch.setattr(execution, "SLOW_ATOMICS", slow)
    run = on("gpu", monkeypatch, **settings)
    assert (run.align_form, run.align_gradient) == expected


@pytest.mark.parametrize("form", ["pallas", "einsum"])
def test_the_vector_memory_of_a_tpu_decides_on_the_kernels(monkeypatch, form):
    kind = jax.devices()[0].device_kind
    monkeypatch.setattr(execution, "LARGE_VMEM", (kind,) if form == "pallas" else ())
    monkeypatch.setattr(execution, "_platform", lambda mesh: "tpu")
    for run in choose(), choose(mesh=mesh_of(2, 1)):
        assert run.align_form == run.align_gradient == form
    assert choose(mesh=mesh_of(2, 2)).align_form == "einsum"
    assert choose(ExecutionConfig(align_form="einsum")).align_form == "einsum"


def test_settings_win_over_the_platform(monkeypatch):
    assert not on("cpu", monkeypatch, rpn_gradient="maps").rpn_windows
    assert on("tpu", monkeypatch, rpn_gradient="windows").rpn_windows
    assert "blocks" in on("tpu", monkeypatch, rematerialise=True).recompute
    assert on("gpu", monkeypatch, deterministic=True).deterministic


def test_a_portable_program_asks_for_no_platform(monkeypatch):
    def fail():
        raise AssertionError("a portable program is for any platform")

    monkeypatch.setattr(jax, "default_backend", fail)
    run = choose(portable=True)
    assert run.align_form == "by_platform" and not run.small_on_cpu


def test_no_other_file_asks_which_platform_a_program_is_for():
    asks = re.compile(r"default_backend|devices\(\)\[0\]\.platform")
    found = {p.name for p in PACKAGE.rglob("*.py") if asks.search(p.read_text())}
    assert found == {"execution.py"}
