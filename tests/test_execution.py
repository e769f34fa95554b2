"""The one place that chooses how the network is computed."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AxisType

from maskrcnn_jax import execution
from maskrcnn_jax.config import ExecutionConfig
from maskrcnn_jax.execution import Execution, choose


def mesh_of(data, space):
    axes = {"axis_types": (AxisType.Auto,) * 2, "devices": jax.devices()[: data * space]}
    return jax.make_mesh((data, space), ("data", "space"), **axes)


def on(platform, monkeypatch, *, kind="", capability="9.0", **settings):
    device = SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    return choose(ExecutionConfig(**settings))


def test_the_default_is_the_plain_network():
    assert Execution() == Execution(
        jax.vmap,
        jax.vmap,
        execution._identity,
        1,
        execution._identity,
        "gather",
        "gather",
        False,
        (),
        None,
        None,
        None,
        False,
        False,
        False,
    )


def test_a_single_cpu_saves_memory(monkeypatch):
    run = on("cpu", monkeypatch)
    assert run.small_on_cpu and run.rpn_windows and run.recompute == ("strided", "top_down")
    assert run.mask_chunk == 20 and run.upsample_chunk == 32 and run.attention_chunk == 512


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_nothing_that_serves_a_cpu_runs_elsewhere(monkeypatch, platform):
    form = {"gpu": "gather", "tpu": "einsum"}[platform]
    expected = Execution(
        align_form=form,
        align_gradient=form,
        rpn_windows=True,
        attention_chunk={"gpu": None, "tpu": 128}[platform],
        on_gpu=platform == "gpu",
    )
    assert on(platform, monkeypatch) == expected


def test_several_cpus_have_no_barriers():
    run = choose(mesh=mesh_of(2, 1))
    assert not run.small_on_cpu and run.upsample_chunk is None and run.recompute == ()
    assert run.rpn_windows and run.mask_chunk == 20


def test_devices_that_share_rows_multiply_matrices():
    run = choose(ExecutionConfig(align_form="gather", rpn_gradient="windows"), mesh_of(1, 8))
    assert run.row_shards == 8 and run.per_pyramid is jax.vmap and run.per_image is not jax.vmap
    assert run.align_form == run.align_gradient == "einsum" and not run.rpn_windows


@pytest.mark.parametrize(
    "settings, jaxlib_version, capability, expected",
    [
        ({}, "0.12.0", "8.0", "gather"),
        ({}, "0.10.2", "8.0", "einsum"),
        ({}, "0.10.2", "9.0", "gather"),
        ({"deterministic": True}, "0.12.0", "9.0", "einsum"),
        ({"align_form": "gather"}, "0.10.2", "8.0", "gather"),
    ],
)
def test_the_gradient_of_roi_align_on_a_gpu(
    monkeypatch, settings, jaxlib_version, capability, expected
):
    monkeypatch.setattr(execution.jaxlib, "__version__", jaxlib_version)
    run = on("gpu", monkeypatch, capability=capability, **settings)
    assert (run.align_form, run.align_gradient) == ("gather", expected)


def test_roi_align_is_computed_in_the_form_that_is_asked_for(monkeypatch):
    run = on("gpu", monkeypatch, align_form="einsum")
    assert run.align_form == run.align_gradient == "einsum"


@pytest.mark.parametrize(
    "kind, form", [("TPU v5 lite", "pallas"), ("TPU v6e", "pallas"), ("TPU v4", "einsum")]
)
def test_the_vector_memory_of_a_tpu_decides_on_the_kernels(monkeypatch, kind, form):
    run = on("tpu", monkeypatch, kind=kind)
    assert run.align_form == run.align_gradient == form
    assert on("tpu", monkeypatch, kind=kind, align_form="einsum").align_form == "einsum"


def test_settings_win_over_the_platform(monkeypatch):
    assert not on("cpu", monkeypatch, rpn_gradient="maps").rpn_windows
    assert on("tpu", monkeypatch).rpn_windows
    assert "blocks" in on("tpu", monkeypatch, rematerialise=True).recompute
    assert on("gpu", monkeypatch, deterministic=True).deterministic


def test_a_portable_program_asks_for_no_platform(monkeypatch):
    def fail():
        raise AssertionError("a portable program is for any platform")

    monkeypatch.setattr(jax, "devices", fail)
    run = choose(portable=True)
    assert run.align_form == "by_platform" and not run.small_on_cpu
