"""Collective operations in the text of programs, hand-written and compiled."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maskrcnn_jax import sharding
from maskrcnn_jax.planning import collectives, hlo
from maskrcnn_jax.planning.collectives import Collective

PROGRAM = """
HloModule step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %x, f32[] %y)
}

%inner (p: f32[4]) -> f32[4] {
  ROOT %all-reduce.3 = f32[4]{0:T(128)} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%turn (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %fusion = f32[4]{0} fusion(f32[4]{0} %x), kind=kLoop, calls=%inner
  ROOT %next = (s32[], f32[4]) tuple(s32[] %i, f32[4]{0} %fusion)
}

%more (state: (s32[], f32[4])) -> pred[] {
  ROOT %less = pred[] compare(s32[] %i, s32[] %n), direction=LT
}

ENTRY %main.1_spmd (p: f32[8]) -> f32[8] {
  %sums = (f32[2,3]{1,0:T(8,128)S(1)}, bf16[5]{0}, pred[]) all-reduce(%a, %b, %c), to_apply=%add
  %all-gather-start = (u8[10]{0}, u8[40]{0}) all-gather-start(u8[10]{0} %p), dimensions={0}
  %all-gather-done = u8[40]{0} all-gather-done((u8[10]{0}, u8[40]{0}) %all-gather-start)
  %collective-permute.7 = s32[2]{0} collective-permute(s32[2]{0} %q), source_target_pairs={{0,1}}
  ROOT %while = (s32[], f32[4]) while((s32[], f32[4]) %start), condition=%more, body=%turn
}
"""


def read(lowered):
    return collectives.read(hlo.parse(lowered.compile().as_text()))


def test_a_program_by_hand():
    assert collectives.read(hlo.parse(PROGRAM)) == [
        Collective("all-gather", count=1, in_loops=0, bytes=40),
        Collective("all-reduce", count=2, in_loops=1, bytes=24 + 10 + 1 + 16),
        Collective("collective-permute", count=1, in_loops=0, bytes=8),
    ]


def test_a_program_without_any():
    assert read(jax.jit(jnp.sin).lower(1.0)) == []


@pytest.mark.parametrize("in_loops", [False, True])
def test_a_compiled_sum_over_devices(in_loops):
    mesh = sharding.make_mesh(2, 2)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def center(x):
        return x - x.mean(0, keepdims=True)

    def repeat(x):
        return jax.lax.while_loop(lambda x: (jnp.abs(x) > 1).any(), lambda x: center(x) / 2, x)

    x = jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=rows)
    lowered = jax.jit(repeat if in_loops else center, out_shardings=whole).lower(x)
    found = {collective.kind: collective for collective in read(lowered)}
    assert (found["all-reduce"].in_loops > 0) == in_loops
    assert found["all-gather"] == Collective("all-gather", count=1, in_loops=0, bytes=4 * 3 * 4)
