"""Prices of instructions on a TPU, from what libtpu says of the program that it compiled.

An instruction takes the longest of three times: that of the bundles it was scheduled into, that of
its products on the matrix units, and that of its bytes in HBM. docs/cost.md compares them with
libtpu's own simulation of single instructions. Most instructions also have an estimate, by which
libtpu chose their tiles. It is far too high where data stay on the chip, so it serves only where
the bundles are not known. Sorts, gathers, scatters and kernels, whose loops depend on data, are
priced by guesses.
"""

import math
from functools import partial

from maskrcnn_jax.planning import collectives
from maskrcnn_jax.planning.chips import TPU
from maskrcnn_jax.planning.cost import bundles, products, schedule
from maskrcnn_jax.planning.cost.schedule import Price, Schedule
from maskrcnn_jax.planning.hlo import Instruction, Program
from maskrcnn_jax.planning.shapes import HBM, VMEM, arrays, num_bytes

# Calibrated on single instructions, see docs/cost.md.
BANDWIDTH_SHARE = 0.8  # Of the published bandwidth.
MATRIX_SHARE = 0.87  # Of the rate of the matrix units.
MATRIX_SIDE = 128  # Products are filled up to so many rows and columns.
MIN_ROWS = 40  # To load a matrix takes as long as to multiply it with so many rows.
# Estimated cycles per cycle of the bundles, in the middle: from 0.6 to 1.5 for products, and from 1
# to 35 for other instructions.
PESSIMISM_OF_PRODUCTS, PESSIMISM = 1.3, 6.0
# Guesses, for what has neither bundles nor an estimate.
VMEM_BYTES_PER_CYCLE = 8192  # One register of 4 KiB is loaded and one stored.
SORT_CYCLES = 6  # Per register and stage of a bitonic sort.
REGISTER = 1024  # Elements of 32 bits.
ASSUMED_TURNS = 8  # Of loops whose end depends on data: non-maximum suppression takes six to nine.

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency"),
}
FREE_CALLS = {
    *("ConcatBitcast", "AllocateBuffer"),
    *("AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked"),
}
MOVES = {
    *("copy", "transpose", "bitcast", "reshape", "pad", "slice", "broadcast", "concatenate"),
    *("dynamic-slice", "dynamic-update-slice", "bitcast-convert", "reverse", "convert"),
}
TRIVIAL = {"parameter", "constant", "tuple", "get-tuple-element", "iota", "custom-call", "fusion"}


def read(program: Program, chip: TPU, scheduled: dict[str, int]) -> Schedule:
    """Prices a program that libtpu compiled; ``scheduled`` is from `bundles.read_dump`."""
    return schedule.read(program, partial(price, program, chip, scheduled), ASSUMED_TURNS)


def price(
    program: Program, chip: TPU, scheduled: dict[str, int], instruction: Instruction
) -> Price | None:
    """The price of one run of an instruction; None if it takes no time."""
    opcode = instruction.opcode
    if opcode in FREE or instruction.target in FREE_CALLS:
        return None
    shapes = program.operand_shapes(instruction)
    kind = _kind(program, instruction)
    if opcode.endswith(("-start", "-update", "-done")):
        moved = max(num_bytes(shape, HBM) + num_bytes(shape, VMEM) for shape in [*shapes, ""])
        return Price(kind, 0.0, overlapped=moved if opcode.endswith("-start") else 0.0)
    traffic = sum(num_bytes(shape) for shape in [*shapes, instruction.shape])
    useful, filled = _matrix_cycles(program, chip, instruction)
    memory = traffic / (BANDWIDTH_SHARE * chip.bandwidth) * chip.hertz
    estimate = instruction.find(r'"estimated_cycles":"(\d+)"')
    turns = bundles.iterations(instruction)
    if turns and instruction.name in scheduled:
        basis, cycles = "bundles", turns * scheduled[instruction.name]
    elif estimate:
        basis = "compiler's estimate"
        cycles = int(estimate) / (PESSIMISM_OF_PRODUCTS if useful else PESSIMISM)
    elif opcode == "sort":
        basis, cycles = "guess", _sort_cycles(instruction)
    else:
        basis = "guess"
        on_chip = sum(num_bytes(shape, VMEM) for shape in [*shapes, instruction.shape])
        cycles = on_chip / VMEM_BYTES_PER_CYCLE
    return Price(
        kind,
        max(cycles, filled / MATRIX_SHARE, memory) / chip.hertz,
        int(estimate) / chip.hertz if estimate else None,
        2 * useful * chip.macs_per_cycle,
        traffic,
        basis=basis,
    )


def _matrix_cycles(program: Program, chip: TPU, instruction: Instruction) -> tuple[float, float]:
    """Cycles of the matrix units for the products in an instruction: useful ones, and all.

    A product is repeated for its precision. It is filled up to the size of the units, in vain.
    """
    useful = total = 0.0
    for x in [instruction, *program.inside(instruction)]:
        if x.opcode in ("convolution", "dot"):
            shapes = program.operand_shapes(x)
            product, passes = products.read(x, shapes), products.passes(x, shapes)
            useful += passes * product.multiplications / chip.macs_per_cycle
            total += passes * _filled(product) / chip.macs_per_cycle
    return useful, total


def _filled(product: products.Product) -> float:
    """Multiplications with each side filled up; the better of both matrices stays in the units."""
    rows, columns = product.rows, product.columns
    stationary = max(rows, MIN_ROWS) * _fill(columns), max(columns, MIN_ROWS) * _fill(rows)
    return float(product.groups * _fill(product.depth) * min(stationary))


def _fill(side: float | int) -> int:
    return math.ceil(side / MATRIX_SIDE) * MATRIX_SIDE


def _sort_cycles(instruction: Instruction) -> float:
    """A bitonic sort takes ``log2(n) (log2(n) + 1) / 2`` stages over keys and values."""
    sorted_arrays = arrays(instruction.shape)
    axis = int(instruction.find(r"dimensions=\{(\d+)"))
    stages = math.ceil(math.log2(max(sorted_arrays[0].sides[axis], 2)))
    registers = max(1, sorted_arrays[0].elements / REGISTER) * len(sorted_arrays)
    return stages * (stages + 1) / 2 * registers * SORT_CYCLES


def _kind(program: Program, instruction: Instruction) -> str:
    opcode = instruction.opcode
    if opcode.startswith(collectives.KINDS):
        return "collective"
    if opcode.endswith(("-start", "-update", "-done")):
        return "copy beside the schedule"
    content = {opcode} | {x.opcode for x in program.inside(instruction)}
    if content & {"convolution", "dot"}:
        return "product"
    for name in ("sort", "scatter", "gather", "reduce-window", "select-and-scatter"):
        if name in content:
            return name
    if opcode == "custom-call":
        return f"kernel {instruction.target}"
    is_cast = "convert" in content and not content & {"copy", "transpose", "pad"}
    if not content - MOVES - TRIVIAL and not is_cast:
        return "layout"
    return "reduction" if "reduce" in content else "elementwise"
