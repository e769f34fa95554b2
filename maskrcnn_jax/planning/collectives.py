"""Finds the collective operations of a compiled program."""

from collections import defaultdict
from typing import NamedTuple

from maskrcnn_jax.planning.hlo import Program
from maskrcnn_jax.planning.shapes import arrays

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
ROLES = (
    *("body", "condition", "calls", "to_apply"),
    *("branch_computations", "true_computation", "false_computation"),
)


class Collective(NamedTuple):
    """The collective operations of one kind in a program."""

    kind: str
    count: int
    in_loops: int  # Those inside loops, which run once per iteration.
    bytes: int  # Total size of the results on one device; loop bodies count once.


def read(program: Program) -> list[Collective]:
    """Finds the collective operations, also those inside of fusions and asynchronous calls."""
    calls, bodies = defaultdict(set), set()
    found = defaultdict(list)
    for name, body in program.computations.items():
        for instruction in body:
            for role in ROLES:
                calls[name] |= set(instruction.called(role))
            bodies |= set(instruction.called("body"))
            # An asynchronous one counts at its end, whose result does not include the input.
            kind = instruction.opcode.removesuffix("-done")
            if kind in KINDS:
                size = sum(array.logical_bytes for array in arrays(instruction.shape))
                found[kind].append((name, size))
    loops = _reachable(bodies, calls)
    return [_summarise(kind, found[kind], loops) for kind in KINDS if kind in found]


def _summarise(kind: str, operations: list[tuple[str, int]], loops: set[str]) -> Collective:
    in_loops = sum(computation in loops for computation, _ in operations)
    return Collective(kind, len(operations), in_loops, sum(size for _, size in operations))


def _reachable(names: set[str], calls: dict[str, set[str]]) -> set[str]:
    reached, waiting = set(), set(names)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= calls.get(name, set()) - reached
    return reached
