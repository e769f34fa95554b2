"""The text of a compiled program, written by hand."""

import pytest

from maskrcnn_jax.planning import hlo
from maskrcnn_jax.planning.hlo import Frame

TEXT = """
HloModule jit_step, is_scheduled=true

FileNames
1 "/site/maskrcnn_jax/train_tool.py"
2 "/site/maskrcnn_jax/modules/fpn.py"

FunctionNames
1 "train"
2 "FPN._merge"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=8 end_column=20}
2 {file_name_id=2 function_name_id=2 line=40 end_line=41 column=8 end_column=20}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}


%inner (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %twice = f32[8,4]{1,0} add(%p, %p), metadata={op_name="jit(step)/jvp(Model)/fpn/add" \
stack_frame_id=2}
}

%more (s: (s32[], f32[8,4])) -> pred[] {
  %s = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%turn (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %next = (s32[], /*index=1*/f32[8,4]{1,0}) tuple(%t, %t)
}

ENTRY %main.1 (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %copy = f32[8,4]{0,1:T(8,128)S(1)} copy(%a)
  %fusion = f32[8,4]{1,0} fusion(%copy), kind=kLoop, calls=%inner
  %start = (s32[], f32[8,4]{1,0}) tuple(%a, %fusion)
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%more, body=%turn
  %known = (s32[], f32[8,4]{1,0}) while(%loop), condition=%more, body=%turn, \
backend_config={"known_trip_count":{"n":"12"}}
  ROOT %call = f32[8,4]{1,0} custom-call(%known), custom_call_target="__cublas$gemm"
}
"""


@pytest.fixture
def program():
    return hlo.parse(TEXT)


def test_computations_in_order(program):
    assert program.entry == "main.1"
    assert [x.opcode for x in program.computations["more"]] == [
        *("parameter", "get-tuple-element", "constant", "compare")
    ]
    fusion = program.instructions["fusion"]
    assert fusion.operands == ("copy",) and fusion.called("calls") == ["inner"]
    assert fusion.shape == "f32[8,4]{1,0}" and fusion.called("body") == []
    assert program.operand_shapes(fusion) == ["f32[8,4]{0,1:T(8,128)S(1)}"]
    assert [x.name for x in program.inside(fusion)] == ["p", "twice"]
    assert program.instructions["next"].shape.endswith("f32[8,4]{1,0})")
    assert program.instructions["call"].target == "__cublas$gemm"


def test_turns_of_loops(program):
    counts = {x: program.trip_count(program.instructions[x]) for x in ("loop", "known")}
    assert counts == {"loop": 7, "known": 12}


@pytest.mark.parametrize("change", ["direction=GT", "compare(%i, %s)"])
def test_a_loop_whose_end_depends_on_data(change):
    before = "direction=LT" if "direction" in change else "compare(%i, %n)"
    program = hlo.parse(TEXT.replace(before, change))
    assert program.trip_count(program.instructions["loop"]) is None


OUTER, INNER = Frame("/site/maskrcnn_jax/train_tool.py", "train", 3), "FPN._merge"


@pytest.mark.parametrize("excess", [0, 1])
def test_lines_of_source(excess):
    """Some versions of XLA print the number of each parent one too high."""
    text = TEXT
    for number in (1, 2):
        was, now = f"parent_frame_id={number}", f"parent_frame_id={number - 1 + excess}"
        text = text.replace(was, now)
    program = hlo.parse(text)
    inner, outer = program.stack(program.instructions["twice"])
    assert inner == Frame("/site/maskrcnn_jax/modules/fpn.py", INNER, 40) and outer == OUTER
    assert program.stack(program.instructions["copy"]) == []


def test_a_text_of_something_else_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("func.func @main() {\n}\n")
