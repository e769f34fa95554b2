"""Launches by the host, counted in a hand-written sequence of thunks."""

import pytest

from maskrcnn_jax.planning import hlo
from maskrcnn_jax.planning.cost import launches
from maskrcnn_jax.planning.cost.launches import Launches

# A graph of two kernels; a loop whose end depends on data, with a kernel; one of 12 turns; a
# condition inside of it.
THUNKS = """
000: kKernel [0] fusion.1
001: kCommandBuffer
  000: kKernel [1] fusion.2
  001: kCublasLtMatmul [2] gemm
002: kWhile
  000: kKernel [3] fusion.3
  001: kCubSort [3] sort.1
003: kWhile
  000: kConditional
    000: kKernel [4] sort_2.kernel
"""
PROGRAM = """
%cond (s: f32[8]) -> pred[] {
  %s = f32[8]{0} parameter(0)
  ROOT %ends = pred[] custom-call(%s), custom_call_target="ends"
}

%body (t: f32[8]) -> f32[8] {
  %t = f32[8]{0} parameter(0)
  ROOT %which = f32[8]{0} conditional(%t, %t), branch_computations={%cond, %cond}
}

%plain (u: f32[8]) -> f32[8] {
  ROOT %u = f32[8]{0} parameter(0)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %open = f32[8]{0} while(%a), condition=%cond, body=%plain
  ROOT %known = f32[8]{0} while(%open), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
}
"""


def test_launches_graphs_and_questions():
    found = launches.read(THUNKS, hlo.parse(PROGRAM))
    assert found == Launches(
        launches=8,  # All thunks outside of the graph, the graph included.
        graphs=1,
        in_graphs=2,
        questions=2 + 12,  # Two for the open loop; one for each condition that is met.
        sort_kernels=2,
    )


def test_the_file_of_the_largest_program(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sequence of thunks"):
        launches.find_dump(tmp_path)
    for name, text in (("a.jit_f", "long text"), ("b.jit_g", "short")):
        (tmp_path / f"{name}.thunk_sequence.txt").write_text(text)
    assert launches.find_dump(tmp_path).name == "a.jit_f.thunk_sequence.txt"
    after = tmp_path / "a.jit_f.thunk_sequence_after_thunk_passes.txt"
    after.write_text("x")
    assert launches.find_dump(tmp_path) == after
