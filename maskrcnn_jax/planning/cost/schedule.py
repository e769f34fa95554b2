"""Walks through a compiled program in the order in which a device runs it."""

from collections.abc import Callable
from typing import NamedTuple

from maskrcnn_jax.planning import origins
from maskrcnn_jax.planning.hlo import Instruction, Program


class Price(NamedTuple):
    """The price of one run of an instruction."""

    kind: str  # Such as "product" or "layout".
    seconds: float
    estimate: float | None = None  # Seconds by the compiler, uncorrected; None if it gives none.
    flops: float = 0.0  # Operations of products, without padding.
    traffic: float = 0.0  # Bytes read from and written to HBM.
    overlapped: float = 0.0  # Bytes that travel beside other instructions, at no cost in time.
    basis: str = "roofline"  # What the time follows from.


class Item(NamedTuple):
    """An instruction of a program with its price."""

    name: str
    shape: str
    stage: str
    source: str  # Lines of this package, the innermost first.
    turns: float  # How often it runs in one step.
    price: Price

    @property
    def seconds(self) -> float:
        """The seconds of all its runs in a step."""
        return self.turns * self.price.seconds


class Loop(NamedTuple):
    """A loop whose end depends on data."""

    source: str
    turns: int  # Assumed.


class Schedule(NamedTuple):
    """All instructions that take time in a step, and the assumptions in it."""

    items: list[Item]
    loops: list[Loop]


def read(
    program: Program, price: Callable[[Instruction], Price | None], assumed_turns: int
) -> Schedule:
    """Prices all instructions of a program; of the branches of a condition the dearest.

    Args:
        program: The program.
        price: The price of an instruction; None if it takes no time.
        assumed_turns: Turns of loops whose end depends on data.
    """

    def walk(name: str, turns: float, outer_stage: str) -> Schedule:
        found = Schedule([], [])
        for instruction in program.computations[name]:
            stage = origins.stage_of(program, instruction) or outer_stage
            if instruction.opcode == "while":
                count = program.trip_count(instruction)
                if count is None:
                    count = assumed_turns
                    found.loops.append(Loop(origins.source_of(program, instruction), count))
                for role in ("body", "condition"):
                    _add(found, walk(instruction.called(role)[0], turns * count, stage))
            elif instruction.opcode == "conditional":
                names = instruction.called("branch_computations") or [
                    *instruction.called("true_computation"),
                    *instruction.called("false_computation"),
                ]
                _add(found, max((walk(name, turns, stage) for name in names), key=_seconds))
            elif instruction.opcode == "call":
                _add(found, walk(instruction.called("to_apply")[0], turns, stage))
            elif priced := price(instruction):
                source = origins.source_of(program, instruction)
                item = Item(instruction.name, instruction.shape, stage, source, turns, priced)
                found.items.append(item)
        return found

    return walk(program.entry, 1.0, origins.OTHER)


def _add(schedule: Schedule, inner: Schedule) -> None:
    schedule.items.extend(inner.items)
    schedule.loops.extend(inner.loops)


def _seconds(schedule: Schedule) -> float:
    return sum(item.seconds for item in schedule.items)
