"""Reads the collective operations from the text of a compiled program."""

import collections
import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

# An asynchronous operation counts at its "-done", whose result does not include the input.
_OPERATION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(?:-done)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(
    r"(body|condition|calls|to_apply|\w+_computations?)=(?:\{([^}]*)\}|%?([\w.-]+))"
)
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")


class Collective(NamedTuple):
    """The collective operations of one kind in a program."""

    kind: str
    count: int
    in_loops: int  # Those inside loops, which run once per iteration.
    bytes: int  # Total size of the results on one device; loop bodies count once.


def read(program: str) -> list[Collective]:
    """Finds the collective operations of a compiled program.

    Args:
        program: The text of `jax.stages.Compiled.as_text`.
    """
    found, calls, bodies = collections.defaultdict(list), collections.defaultdict(set), set()
    computation = ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[1]
        for role, names, name in _CALLED.findall(line):
            called = set(re.findall(r"[\w.-]+", names or name))
            calls[computation] |= called
            bodies |= called if role == "body" else set()
        if operation := _OPERATION.search(line):
            found[computation].append((operation[2], _size(operation[1])))
    loops = _reachable(bodies, calls)
    by_kind = collections.defaultdict(list)
    for name, operations in found.items():
        for kind, size in operations:
            by_kind[kind].append((size, name in loops))
    return [_summarise(kind, by_kind[kind]) for kind in KINDS if kind in by_kind]


def _summarise(kind: str, operations: list[tuple[int, bool]]) -> Collective:
    sizes, in_loops = zip(*operations, strict=True)
    return Collective(kind, len(sizes), sum(in_loops), sum(sizes))


def _reachable(names: set[str], calls: dict[str, set[str]]) -> set[str]:
    reached, waiting = set(), set(names)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= calls.get(name, set()) - reached
    return reached


def _size(shapes: str) -> int:
    """Bytes of the arrays of an HLO shape, such as ``(f32[2,3]{1,0}, pred[])``."""
    total = 0
    for letters, bits, dimensions in _ARRAY.findall(shapes):
        count = math.prod(int(n) for n in dimensions.split(",") if n)
        total += count * (1 if letters == "pred" else int(bits) // 8)
    return total
