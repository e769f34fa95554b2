"""What the devices tell each other: the collective operations of a compiled program, read from its text."""

import collections
import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

# An operation in two halves counts where it is done: there its result is no longer packed together with its input.
_OPERATION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(?:-done)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(r"(body|condition|calls|to_apply|\w+_computations?)=(?:\{([^}]*)\}|%?([\w.-]+))")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")


class Collective(NamedTuple):
    """All collective operations of one kind."""

    kind: str
    count: int
    in_loops: int  # How many of them run once per turn of a loop, not once per step.
    bytes: int  # Of their results on one device, each counted once.


def read(program: str) -> list[Collective]:
    """Finds the collective operations in the text of a compiled program, `jax.stages.Compiled.as_text`."""
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
    everything = [(kind, size, name in loops) for name, operations in found.items() for kind, size in operations]
    return [_summarise(kind, everything) for kind in KINDS if any(kind == other for other, _, _ in everything)]


def _summarise(kind: str, operations: list[tuple[str, int, bool]]) -> Collective:
    sizes, looped = zip(*((size, looped) for other, size, looped in operations if other == kind), strict=True)
    return Collective(kind, len(sizes), sum(looped), sum(sizes))


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
