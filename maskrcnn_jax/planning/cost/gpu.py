"""Prices of instructions on an NVIDIA GPU: a roofline over the program that XLA compiled for it.

XLA without a card chooses no algorithm for convolutions and products, so their rates are those of
large ones. A kernel takes the longest of its operations, its bytes and its start. Caches are not
modelled: what stays in L2 between two kernels counts as read from memory.
"""

import math
from collections.abc import Callable
from functools import partial

from maskrcnn_jax.planning import collectives
from maskrcnn_jax.planning.chips import GPU
from maskrcnn_jax.planning.cost import schedule
from maskrcnn_jax.planning.cost.schedule import Price, Schedule
from maskrcnn_jax.planning.hlo import Instruction, Program
from maskrcnn_jax.planning.shapes import Array, arrays, num_bytes

KERNEL = 2.0e-6  # Seconds that a kernel takes at least.
SMALL = 1e6  # Bytes: a kernel with fewer mostly waits for its start.
TILE = 128  # Rows and columns of the result that a multiprocessor computes at once.
LONG_SUM = 4096  # A longer sum is cut into parts, so that all multiprocessors have work.
CUT_WASTE = 1.15  # For the sum of these parts.
MAX_WASTE = 4.0  # Of tiles that are not full: smaller tiles exist.
# The rates of float32, compared with bfloat16: on tensor cores with 10 bits, or exact.
TF32_SLOWDOWN, FLOAT32_SLOWDOWN = 2.0, 12.0
ASSUMED_TURNS = 1  # Of loops whose end depends on data.

FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"),
    *("fusion-done", "copy-done", "partition-id", "replica-id"),
}
GRADIENTS = {"Filter": "convolution, by kernel", "dInput": "convolution, by input"}
# The kind of a fusion is that of the first of these that it contains.
FIRST = ("scatter", "sort", "gather", "dot", "reduce", "transpose")
KINDS = {"dot": "product", "reduce": "reduction", "transpose": "layout"}


def read(program: Program, gpu: GPU, kernels_per_sort: float) -> Schedule:
    """Prices a program; a sort reads and writes its arrays ``kernels_per_sort`` times."""
    return schedule.read(program, partial(price, program, gpu, kernels_per_sort), ASSUMED_TURNS)


def price(
    program: Program, gpu: GPU, kernels_per_sort: float, instruction: Instruction
) -> Price | None:
    """The price of one run of an instruction; None if it takes no time."""
    opcode, target = instruction.opcode, instruction.target
    if opcode in FREE:
        return None
    shapes = program.operand_shapes(instruction)
    traffic = sum(map(num_bytes, [instruction.shape, *shapes]))
    body = program.computations.get("".join(instruction.called("calls")), [])
    if opcode.startswith(collectives.KINDS):
        return Price("collective", 0.0, overlapped=traffic)
    if target.startswith("__cudnn$conv"):
        kind = GRADIENTS.get(target[-6:], "convolution")
        return _of_product(kind, instruction, shapes, _convolution, gpu.convolution_rate, gpu)
    if "matmul" in target or "gemm" in target:
        return _of_product("product", instruction, shapes, _product, gpu.product_rate, gpu)
    if body:
        traffic = _fusion_traffic(instruction, body)
        opcodes = {x.opcode for x in body}
        opcode = next((name for name in FIRST if name in opcodes), "elementwise")
        kind = KINDS.get(opcode, opcode)
        if traffic < SMALL and kind not in ("scatter", "sort", "gather"):
            kind = "small"
    else:
        kind = {"copy": "layout", "custom-call": f"kernel {target}"}.get(opcode, opcode)
    seconds = max(traffic / gpu.copy_rate, KERNEL)
    return Price(kind, seconds * (kernels_per_sort if kind == "sort" else 1), traffic=traffic)


def _of_product(
    kind: str,
    instruction: Instruction,
    shapes: list[str],
    count: Callable[..., tuple[float, float]],
    rate: float,
    gpu: GPU,
) -> Price:
    """The price of a call of cuBLAS or cuDNN; ``count`` gives operations and their waste."""
    left, right = (arrays(shape)[0] for shape in shapes[:2])
    result = arrays(instruction.shape)[0]  # Working memory lies beside it.
    traffic = sum(map(num_bytes, shapes)) + result.bytes
    flops, waste = count(instruction, left, right, result, gpu)
    if left.dtype == "f32":
        is_exact = "highest" in instruction.attributes.lower()
        waste *= FLOAT32_SLOWDOWN if is_exact else TF32_SLOWDOWN
    seconds = max(flops * waste / rate, traffic / gpu.copy_rate, KERNEL)
    return Price(kind, seconds, flops=flops, traffic=traffic)


def _product(
    instruction: Instruction, left: Array, right: Array, result: Array, gpu: GPU
) -> tuple[float, float]:
    """Operations of a matrix product, and how much longer it takes for work that is unequal."""
    axes = instruction.find(r'"lhs_contracting_dimensions":\[([\d,"]*)\]').replace('"', "")
    depth = math.prod(left.sides[int(axis)] for axis in axes.split(",") if axis)
    flops = 2.0 * result.elements * depth
    if depth > LONG_SUM:
        return flops, CUT_WASTE
    return flops, _waste(math.prod(result.sides[:-1]), result.sides[-1], gpu)


def _convolution(
    instruction: Instruction, left: Array, right: Array, result: Array, gpu: GPU
) -> tuple[float, float]:
    """The same for a convolution or one of its gradients."""
    direction = instruction.target[-6:]
    # The kernel and the result of the forward convolution.
    roles = {"Filter": (result, right), "dInput": (right, left)}
    kernel, outputs = roles.get(direction, (right, result))
    features = kernel.sides[instruction.find(r"dim_labels=\w+?_(\w+)->").index("o")]
    flops = 2.0 * outputs.elements * kernel.elements / features
    if direction == "Filter":
        return flops, CUT_WASTE
    return flops, _waste(result.elements // result.sides[-1], result.sides[-1], gpu)


def _waste(rows: int, columns: int, gpu: GPU) -> float:
    """How much longer a product takes: tiles are not full, the last round has too few of them."""
    tiles = math.ceil(rows / TILE) * math.ceil(columns / TILE)
    filled = rows * columns / (tiles * TILE * TILE)
    rounds = math.ceil(tiles / gpu.multiprocessors) * gpu.multiprocessors / tiles
    return rounds * min(1 / filled, MAX_WASTE)


def _fusion_traffic(fusion: Instruction, body: list[Instruction]) -> float:
    """Bytes that a fusion moves; of arrays that it picks from or adds to, only the picked part."""
    by_name = {x.name: x for x in body}
    needed = dict.fromkeys(by_name, 0.0)  # The share of each array that is read or written.
    needed[body[-1].name] = 1.0
    total = float(num_bytes(fusion.shape))
    for x in reversed(body):  # Users come after what they use.
        updates_in_place = x.opcode in ("scatter", "dynamic-update-slice")
        for position, name in enumerate(x.operands):
            share = needed[x.name]
            if position == 0 and x.opcode in ("gather", "dynamic-slice", "slice"):
                share *= _elements(x) / max(_elements(by_name[name]), 1)
            elif position == 0 and updates_in_place:
                updates = by_name[x.operands[2 if x.opcode == "scatter" else 1]]
                share = 2 * min(_elements(updates) / max(_elements(by_name[name]), 1), 1.0)
                total -= num_bytes(x.shape)
            needed[name] = min(needed[name] + share, 2.0 if updates_in_place else 1.0)
        if x.opcode == "parameter":
            total += needed[x.name] * num_bytes(x.shape)
    return max(total, 0.0)


def _elements(instruction: Instruction) -> int:
    return sum(array.elements for array in arrays(instruction.shape))
