"""The environment and the description of devices that are not at hand."""

import pytest

from maskrcnn_jax.planning import devices
from maskrcnn_jax.planning.chips import GPUS

NEEDED = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"


def test_the_environment_of_a_compilation_for_gpus():
    own = {"HOME": "/home/me", "JAX_PLATFORMS": "cuda"}
    found = devices.gpu_environment(own)
    assert found == {"HOME": "/home/me", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": NEEDED}
    assert devices.gpu_environment(found) == found  # Nothing is missing there.
    mine = devices.gpu_environment({"XLA_FLAGS": "--xla_gpu_autotune_level=0 --mine=1"})
    assert mine["XLA_FLAGS"] == (
        "--xla_gpu_autotune_level=0 --mine=1 --xla_gpu_enable_triton_gemm=false"
    )


def test_the_text_of_a_gpu(monkeypatch):
    described = []

    def describe(**arguments):
        described.append(arguments)
        return type("Topology", (), {"devices": ["a", "b"]})

    monkeypatch.setattr(devices, "check_gpu", lambda name: None)
    monkeypatch.setattr(devices.topologies, "get_topology_desc", describe)
    assert devices.gpus("h200", 2) == ["a", "b"]
    ((arguments),) = described
    assert arguments["platform"] == "cuda" and arguments["topology"] == "1x1x2"
    text = arguments["target_config"]
    for words in ("core_count: 132", "memory_bandwidth: 4800000000000", 'name: "NVIDIA H200"'):
        assert words in text
    assert text.count("{") == text.count("}")


def test_the_compiler_for_gpus_compiles():
    pytest.importorskip("jax_cuda13_plugin", reason="the extra gpu-compiler is not installed")
    (device,) = devices.gpus("h100", 1)
    assert device.device_kind in GPUS and device.platform == "gpu"


def test_libtpu_writes_where_it_is_told(monkeypatch, tmp_path):
    pytest.importorskip("libtpu", reason="libtpu is not installed: the extra tpu has it")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_mine=1")
    devices.topology("v5e:2x2", tmp_path)
    flags = devices.os.environ["LIBTPU_INIT_ARGS"].split()
    assert flags[0] == "--xla_mine=1" and flags[-1] == f"--xla_jf_dump_to={tmp_path}"
