"""Reads the text of a compiled program: computations, instructions, loops and lines of source."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .+ \{\s*$")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_TABLE_ROW = re.compile(r"^(\d+) (.*)$")
_COUNTER = re.compile(r"^constant\((-?\d+)\)")
NEAR = 6  # Operands, and users, to follow in search of an origin.


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str  # As printed, layouts included: ``(f32[8,128]{1,0:T(8,128)S(1)}, u32[])``.
    opcode: str
    operands: tuple[str, ...]
    attributes: str  # The rest of the line; of a constant, its value too.

    def find(self, pattern: str, default: str = "") -> str:
        """The first group of a pattern in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else default

    def called(self, role: str) -> list[str]:
        """The computations that it calls in a role, such as ``body`` or ``calls``."""
        if f"{role}=" not in self.attributes:
            return []
        names = self.find(rf"\b{role}=(\{{[^}}]*\}}|%?[\w.\-]+)")
        return re.findall(r"[\w.\-]+", names)

    @property
    def op_name(self) -> str:
        """The path of scopes that jax gives an operation: ``jit(step)/jvp(fpn)/add``."""
        return self.find(r'op_name="([^"]*)"')

    @property
    def target(self) -> str:
        """The function that a custom call runs."""
        return self.find(r'custom_call_target="([^"]*)"')


class Frame(NamedTuple):
    """A line of source on the stack when an operation was traced."""

    file: str
    function: str
    line: int


class Program:
    """A compiled program.

    Attributes:
        computations: The instructions of each computation, in the order of the schedule.
        entry: The computation that runs first.
        frames: Of each stack, its lines of source from the innermost outwards.
    """

    def __init__(
        self,
        computations: dict[str, list[Instruction]],
        entry: str,
        frames: dict[int, list[Frame]],
    ) -> None:
        self.computations, self.entry, self.frames = computations, entry, frames

    @cached_property
    def instructions(self) -> dict[str, Instruction]:
        """All instructions by name; names are unique in a program."""
        return {x.name: x for body in self.computations.values() for x in body}

    @cached_property
    def users(self) -> dict[str, Instruction]:
        """Of each instruction the first that reads it."""
        found = {}
        for instruction in self.instructions.values():
            for name in instruction.operands:
                found.setdefault(name, instruction)
        return found

    def operand_shapes(self, instruction: Instruction) -> list[str]:
        """The shape of each operand."""
        return [self.instructions[name].shape for name in instruction.operands]

    def inside(self, instruction: Instruction) -> list[Instruction]:
        """The instructions that a fusion computes, those of fusions in it included."""
        found = []
        for callee in instruction.called("calls"):
            for inner in self.computations.get(callee, []):
                found += [inner, *self.inside(inner)]
        return found

    def trip_count(self, loop: Instruction) -> int | None:
        """How often a loop runs; None if its end depends on data."""
        if known := loop.find(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(known)
        # libtpu drops that note; such a loop compares a counter from zero with a constant.
        condition = self.computations[loop.called("condition")[0]]
        last = condition[-1]
        compares = [x for x in condition if x.opcode == "compare"]
        if compares == [last] and "direction=LT" in last.attributes:
            for name in last.operands:
                if limit := _COUNTER.match(self.instructions[name].attributes):
                    return int(limit[1])
        return None

    def stack(self, instruction: Instruction) -> list[Frame]:
        """The lines of source that an instruction comes from, the innermost first."""
        return self.frames.get(int(instruction.find(r"stack_frame_id=(\d+)", "0")), [])

    def origins(self, instruction: Instruction) -> Iterator[Instruction]:
        """Instructions that may tell where one comes from: itself, its content, its neighbours.

        Copies and pads that a compiler adds often have no origin of their own.
        """
        for x in itertools.chain(
            [instruction], self._operands_of(instruction), self._users_of(instruction)
        ):
            yield from (y for y in (x, *reversed(self.inside(x))) if "/" in y.op_name)

    def _operands_of(self, instruction: Instruction) -> Iterator[Instruction]:
        for _ in range(NEAR):
            if not instruction.operands:
                return
            instruction = self.instructions[instruction.operands[0]]
            yield instruction

    def _users_of(self, instruction: Instruction) -> Iterator[Instruction]:
        for _ in range(NEAR):
            if instruction.name not in self.users:
                return
            instruction = self.users[instruction.name]
            yield instruction


def parse(text: str) -> Program:
    """Parses `jax.stages.Compiled.as_text`.

    Raises:
        ValueError: The text has no computation to start with.
    """
    computations, entry, body = {}, "", None
    tables, table = defaultdict(dict), ""
    for line in text.splitlines():
        if line in _TABLES:
            table = line
        elif table and (row := _TABLE_ROW.match(line)):
            tables[table][int(row[1])] = row[2]
        elif header := _HEADER.match(line):
            table, body = "", computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif body is not None and line.startswith("  ") and " = " in line:
            body.append(_instruction(line.strip().removeprefix("ROOT ")))
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return Program(computations, entry, _frames(tables))


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(" = ")
    end = _closing(rest, " ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing(rest, ")")
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
    value = f"constant({rest[:end]})" if opcode == "constant" else ""
    return Instruction(name.lstrip("%"), shape, opcode, operands, value + rest[end + 1 :])


def _closing(text: str, end: str) -> int:
    """The first position of a character outside of brackets."""
    depth = 0
    for i, character in enumerate(text):
        if character == end and depth == 0:
            return i
        depth += (character in "({[") - (character in ")}]")
    return len(text)


def _frames(tables: dict[str, dict[int, str]]) -> dict[int, list[Frame]]:
    rows = {
        name: {number: _fields(row) for number, row in tables[name].items()}
        for name in ("FileLocations", "StackFrames")
    }
    names = {
        name: {number: row.strip('"') for number, row in tables[name].items()}
        for name in ("FileNames", "FunctionNames")
    }

    def frame(location: dict[str, int]) -> Frame:
        file = names["FileNames"].get(location.get("file_name_id"), "")
        function = names["FunctionNames"].get(location.get("function_name_id"), "")
        return Frame(file, function, location.get("line", 0))

    # The outermost frame has no parent, 0. Some versions of XLA print the numbers of parents, and
    # only these, one too high.
    parents = {n: row.get("parent_frame_id", 0) for n, row in rows["StackFrames"].items()}
    excess = min(parents.values(), default=0)
    stacks = {}
    for number in sorted(parents):  # Parents come before their children.
        location = rows["StackFrames"][number].get("file_location_id")
        outer = stacks.get(parents[number] - excess, [])
        stacks[number] = [frame(rows["FileLocations"].get(location, {})), *outer]
    return stacks


def _fields(row: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", row)}
