"""Reads into how many bundles libtpu scheduled each instruction; a bundle takes one cycle."""

import math
import re
from pathlib import Path

from maskrcnn_jax.planning.hlo import Instruction, Program

# With these flags and a folder libtpu writes two files for each instruction: its bundles, and how
# many they are.
FLAGS = (
    "--xla_jf_dump_llo_text=true",
    "--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*",
    "--xla_jf_dump_to=",
)
_FILE = re.compile(r"^\d+-(.+)-\d+-schedule-analysis_final_bundles\.txt$")
_COUNT = re.compile(r"non empty scheduled bundles: (\d+)")


def read_dump(folder: Path | None, program: Program) -> dict[str, int]:
    """The bundles of each instruction that has a file, or an equal one; empty without a folder."""
    found = {}
    for path in folder.iterdir() if folder else ():
        name = _FILE.match(path.name)
        if name and name[1] in program.instructions and (count := _COUNT.search(path.read_text())):
            found[name[1]] = int(count[1])
    # libtpu compiles equal instructions once.
    equal = {_signature(program, program.instructions[name]): n for name, n in found.items()}
    for instruction in program.instructions.values():
        if count := equal.get(_signature(program, instruction)):
            found.setdefault(instruction.name, count)
    return found


def iterations(instruction: Instruction) -> int | None:
    """How often an instruction runs its bundles: once for each tile of its result, if known."""
    bounds = re.findall(r"\d+", instruction.find(r'"iteration_bounds":\[([^\]]*)\]'))
    return math.prod(map(int, bounds)) if bounds else None


def _signature(program: Program, instruction: Instruction) -> tuple[str, ...]:
    window = instruction.find(r'("window_config":\{[^}]*\})')
    shapes = program.operand_shapes(instruction)
    return (instruction.opcode, instruction.shape, window, *shapes)
