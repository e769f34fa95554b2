"""Profiles: which events count, and their sums by kernel, stage and kind."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu_profile
from benchmarks.gpu_profile import Event

# One step on a card: XLA names the instruction of the first kernel only; the copy has no name.
TRACE = """
planes {
  name: "/device:GPU:0"
  event_metadata { key: 1 value { id: 1 name: "loop_add_fusion_7" } }
  event_metadata { key: 2 value { id: 2 name: "sm90_xmma_wgrad_f32" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  lines {
    name: "Stream #1(Compute)" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 0 duration_ps: 2000000
             stats { metadata_id: 1 str_value: "loop_add_fusion.7" } }
    events { metadata_id: 2 offset_ps: 3000000 duration_ps: 5000000 }
  }
  lines { name: "XLA Ops" events { metadata_id: 1 offset_ps: 0 duration_ps: 9000000 } }
}
planes {
  name: "/device:GPU:1"
  event_metadata { key: 1 value { id: 1 name: "other" } }
  lines { name: "Stream #1(Compute)" events { metadata_id: 1 offset_ps: 0 duration_ps: 1000000 } }
}
planes { name: "/host:CPU" }
"""

PROGRAM = """HloModule jit_step

%body (p.1: f32[1024,1024]) -> f32[1024,1024] {
  %p.1 = f32[1024,1024]{1,0} parameter(0)
  ROOT %add.1 = f32[1024,1024]{1,0} add(%p.1, %p.1)
}

ENTRY %main (x: f32[1024,1024]) -> f32[1024,1024] {
  %x = f32[1024,1024]{1,0} parameter(0)
  %loop_add_fusion.7 = f32[1024,1024]{1,0} fusion(%x), kind=kLoop, calls=%body, metadata={op_name="jit(step)/MaskRCNN/fpn/add"}
  ROOT %copy.2 = f32[1024,1024]{0,1} copy(%loop_add_fusion.7), metadata={op_name="jit(step)/transpose(jvp(MaskRCNN))/rpn/copy"}
}
"""  # noqa: E501


def test_kernels_of_the_first_card_are_read():
    profile = jax.profiler.ProfileData.from_text_proto(TRACE)
    first, second = gpu_profile.read(profile)
    assert first[:2] == ("loop_add_fusion_7", "loop_add_fusion.7")
    assert second[:2] == ("sm90_xmma_wgrad_f32", "")
    assert (first.seconds, second.seconds) == pytest.approx((2e-6, 5e-6))
    assert second.start - first.start == pytest.approx(3e-6)


def test_sums_of_a_step():
    # Two steps of three kernels on two streams; the copy is known by the name of its kernel only.
    events = [
        Event("loop_add_fusion_7", "loop_add_fusion.7", 0e-6, 4e-6),
        Event("copy_2", "", 2e-6, 4e-6),
        Event("sm90_xmma_wgrad_f32", "", 8e-6, 2e-6),
        Event("loop_add_fusion_7", "loop_add_fusion.7", 10e-6, 2e-6),
        Event("copy_2__1", "", 14e-6, 4e-6),
        Event("mystery", "", 18e-6, 2e-6),
    ]
    found = gpu_profile.summarise(events, 2, PROGRAM, "NVIDIA H200")
    assert found["launches"] == 3
    assert (found["seconds"], found["busy"]) == pytest.approx((10e-6, 8e-6))
    stages = {name: row["seconds"] for name, row in found["stages"].items()}
    expected = {"rpn, backward": 4e-6, "fpn": 3e-6, "unknown": 2e-6}
    assert stages == pytest.approx(expected) and list(stages)[0] == "rpn, backward"
    kinds = {name: row["seconds"] for name, row in found["kinds"].items()}
    assert kinds == pytest.approx(
        {"layout": 4e-6, "elementwise": 3e-6, "convolution, by kernel": 1e-6, "unknown": 1e-6}
    )
    (fusion,) = (row for row in found["kernels"] if row["stage"] == "fpn")
    # Reads and writes 4 MiB at the rate at which an H200 copies.
    assert fusion["runs"] == 1 and fusion["priced"] == pytest.approx(2 * 2**22 / 4.25e12, rel=0.2)
    assert found["stages"]["unknown"]["priced"] == 0


def test_without_prices_kinds_are_those_of_xla():
    events = [Event("loop_add_fusion.7", "loop_add_fusion.7", 0, 1e-6)]
    found = gpu_profile.summarise(events, 1, PROGRAM, "cpu")
    assert list(found["kinds"]) == ["fusion"] and "priced" not in found["kernels"][0]


def test_a_kernel_that_the_prices_do_not_know_still_counts():
    call = 'custom_call_target="__cudnn$convForward"'  # Its axes are missing.
    text = PROGRAM.replace("fusion(%x), kind=kLoop, calls=%body", f"custom-call(%x, %x), {call}")
    events = [Event("loop_add_fusion.7", "loop_add_fusion.7", 0, 1e-6)]
    (row,) = gpu_profile.summarise(events, 1, text, "NVIDIA H200")["kernels"]
    assert row["stage"] == "fpn" and row["kind"] == "custom-call" and "priced" not in row


def test_a_program_of_this_machine_is_profiled(tmp_path):
    program = jax.jit(lambda x: jnp.sin(x @ x)).lower(jnp.ones((64, 64))).compile()
    events = gpu_profile.record(lambda: program(jnp.ones((64, 64))).block_until_ready(), tmp_path)
    found = gpu_profile.summarise(events, 1, program.as_text(), "cpu")
    assert {row["instruction"] for row in found["kernels"] if "instruction" in row}
    assert found["seconds"] >= found["busy"] > 0


def test_names_of_files():
    assert gpu_profile.file_name("training, batch 4, no options for GPUs") == (
        "training-batch-4-no-options-for-gpus"
    )
