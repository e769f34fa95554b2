"""Counts what the host launches on a GPU, and how often it waits for an answer of the GPU."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from maskrcnn_jax.planning.hlo import Program

# With the option ``xla_dump_to`` XLA writes the sequence of thunks, which is what the host runs.
# The first file exists if passes changed the sequence, as when they make CUDA graphs.
DUMPS = "*.thunk_sequence_after_thunk_passes.txt", "*.thunk_sequence.txt"

# A line of it: number, kind, instruction; the thunks in a loop or a graph are indented.
_THUNK = re.compile(r"^( *)\d+: (k\w+)(.*)$", re.MULTILINE)
_SORT = re.compile(r"\] +sort[_\d]*")


class Launches(NamedTuple):
    """Launches and questions of the host in one step; the bodies of loops count once."""

    launches: int  # Of kernels, copies and graphs.
    graphs: int  # CUDA graphs among them.
    in_graphs: int  # Kernels and copies in these graphs.
    questions: int  # How often the host waits to learn whether a loop ends, or which branch runs.
    sort_kernels: int


def find_dump(folder: Path) -> Path:
    """The file with the thunks of the largest program that XLA compiled into a folder.

    Raises:
        FileNotFoundError: This version of XLA wrote no sequence of thunks.
    """
    for pattern in DUMPS:
        # Small programs may be compiled on the way.
        if files := sorted(folder.glob(pattern), key=lambda path: path.stat().st_size):
            return files[-1]
    raise FileNotFoundError(f"XLA wrote no sequence of thunks into {folder}")


def read(thunks: str, program: Program) -> Launches:
    """Counts launches and questions.

    Args:
        thunks: The text of the sequence of thunks.
        program: The program that it belongs to.
    """
    alone, in_graphs, sorts, graph = Counter(), Counter(), 0, None
    for indent, kind, rest in _THUNK.findall(thunks):
        depth = len(indent)
        if graph is not None and depth <= graph:
            graph = None
        (alone if graph is None else in_graphs)[kind] += 1
        if graph is None and kind == "kCommandBuffer":
            graph = depth
        sorts += bool(_SORT.search(rest))
    loops, conditions = _count_loops(program, program.entry, 1)
    questions = 2 * max(alone["kWhile"] - loops, 0)  # Before the loop, and after a turn.
    questions += conditions if alone["kConditional"] else 0
    graphs = alone["kCommandBuffer"]
    return Launches(alone.total(), graphs, in_graphs.total(), questions, sorts)


def _count_loops(program: Program, name: str, turns: int) -> tuple[int, int]:
    """Loops with a known number of turns, of which the host need not ask, and conditions met."""
    known = conditions = 0
    for instruction in program.computations[name]:
        if instruction.opcode == "while":
            count = program.trip_count(instruction)
            body = instruction.called("body")[0]
            inner = _count_loops(program, body, turns * (count or 1))
            known, conditions = known + (count is not None) + inner[0], conditions + inner[1]
        elif instruction.opcode == "conditional":
            conditions += turns
    return known, conditions
