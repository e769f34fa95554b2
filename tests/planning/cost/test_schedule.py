"""How often each instruction of a hand-written program runs, and what it belongs to."""

import pytest

from maskrcnn_jax.planning import hlo
from maskrcnn_jax.planning.cost import schedule
from maskrcnn_jax.planning.cost.schedule import Loop, Price

TEXT = """
%turn (s: f32[8]) -> f32[8] {
  %s = f32[8]{0} parameter(0)
  ROOT %in_loop = f32[8]{0} copy(%s)
}

%more (c: f32[8]) -> pred[] {
  %c = f32[8]{0} parameter(0)
  ROOT %ends = pred[] custom-call(%c), custom_call_target="ends"
}

%cheap (d: f32[8]) -> f32[8] {
  %d = f32[8]{0} parameter(0)
  ROOT %one = f32[8]{0} copy(%d)
}

%dear (e: f32[8]) -> f32[8] {
  %e = f32[8]{0} parameter(0)
  %two = f32[8]{0} copy(%e)
  ROOT %three = f32[8]{0} copy(%two)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %known = f32[8]{0} while(%a), condition=%more, body=%turn, \
metadata={op_name="jit(step)/transpose(jvp(Model))/mask_head/while"}, \
backend_config={"known_trip_count":{"n":"12"}}
  %open = f32[8]{0} while(%known), condition=%more, body=%again
  %which = f32[8]{0} conditional(%a, %open, %open), branch_computations={%cheap, %dear}
  ROOT %called = f32[8]{0} call(%which), to_apply=%last
}

%again (f: f32[8]) -> f32[8] {
  %f = f32[8]{0} parameter(0)
  ROOT %in_open_loop = f32[8]{0} copy(%f)
}

%last (g: f32[8]) -> f32[8] {
  %g = f32[8]{0} parameter(0)
  ROOT %in_call = f32[8]{0} copy(%g)
}
"""


def price(instruction):
    return Price("copy", 1.0, flops=2.0) if instruction.opcode == "copy" else None


@pytest.fixture
def read():
    return schedule.read(hlo.parse(TEXT), price, 5)


def test_turns_and_branches(read):
    turns = {item.name: item.turns for item in read.items}
    assert turns == {"in_loop": 12, "in_open_loop": 5, "two": 1, "three": 1, "in_call": 1}
    assert [item.seconds for item in read.items] == [12, 5, 1, 1, 1]


def test_loops_whose_turns_are_assumed_are_told(read):
    assert read.loops == [Loop("", 5)]


def test_a_body_without_origin_belongs_to_the_stage_of_its_loop(read):
    stages = {item.name: item.stage for item in read.items}
    assert stages["in_loop"] == "mask_head, backward"
    assert stages["in_call"] == "other"
