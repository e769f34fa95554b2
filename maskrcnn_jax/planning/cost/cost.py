"""The price of one step of a compiled program on a chip that need not exist."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from maskrcnn_jax.planning import chips
from maskrcnn_jax.planning.cost import bundles, gpu, launches, tpu
from maskrcnn_jax.planning.cost.launches import Launches
from maskrcnn_jax.planning.cost.schedule import Item, Loop
from maskrcnn_jax.planning.hlo import Program

# Seconds of the host of a GPU, for a launch, and for reading a value that ends a loop.
LAUNCH, QUESTION = 5.0e-6, 20.0e-6


class Cost(NamedTuple):
    """The predicted cost of one step on one device."""

    chip: chips.TPU | chips.GPU
    seconds: float
    items: list[Item]
    loops: list[Loop]  # Whose turns are assumed.
    launches: Launches | None  # On a GPU.

    @property
    def busy(self) -> float:
        """Seconds of all instructions one after the other."""
        return sum(item.seconds for item in self.items)

    @property
    def estimate(self) -> float:
        """Seconds by the compiler, uncorrected; what it gives none for is priced as in `busy`."""
        return sum(row.estimate for row in group(self.items, lambda item: item.stage).values())

    def total(self, field: str) -> float:
        """The sum of a field of `Price` over all runs of all instructions."""
        return sum(item.turns * getattr(item.price, field) for item in self.items)

    @property
    def matrix_share(self) -> float:
        """Operations of products, compared with what the chip could do in this time."""
        return self.total("flops") / (self.seconds * self.chip.peak)


class Row(NamedTuple):
    """A group of instructions."""

    seconds: float = 0.0
    estimate: float = 0.0
    flops: float = 0.0
    traffic: float = 0.0
    runs: float = 0.0  # Of all instructions, in one step.


def read(chip: chips.TPU | chips.GPU, program: Program, dump: Path | None = None) -> Cost:
    """Prices a compiled program.

    Args:
        chip: The chip that it was compiled for, from `chips.find`.
        program: The program.
        dump: The folder into which the compiler wrote: libtpu with `bundles.FLAGS`, or XLA for GPUs
            with the option ``xla_dump_to``. A TPU's program has prices without it.
    """
    if isinstance(chip, chips.TPU):
        items, loops = tpu.read(program, chip, bundles.read_dump(dump, program))
        return Cost(chip, sum(item.seconds for item in items), items, loops, None)
    launched = launches.read(launches.find_dump(dump).read_text(), program)
    num_sorts = sum(1 for x in program.instructions.values() if x.opcode == "sort")
    items, loops = gpu.read(program, chip, max(launched.sort_kernels / max(num_sorts, 1), 1.0))
    busy = sum(item.seconds for item in items)
    # The host runs ahead of the card, except where it asks.
    seconds = max(busy, launched.launches * LAUNCH) + launched.questions * QUESTION
    return Cost(chip, seconds, items, loops, launched)


def group(items: list[Item], key: Callable[[Item], str]) -> dict[str, Row]:
    """Sums instructions by a property, the dearest group first."""
    rows = defaultdict(Row)
    for item in items:
        price, turns, row = item.price, item.turns, rows[key(item)]
        estimate = price.seconds if price.estimate is None else price.estimate
        rows[key(item)] = Row(
            row.seconds + item.seconds,
            row.estimate + turns * estimate,
            row.flops + turns * price.flops,
            row.traffic + turns * price.traffic,
            row.runs + turns,
        )
    return dict(sorted(rows.items(), key=lambda entry: -entry[1].seconds))
