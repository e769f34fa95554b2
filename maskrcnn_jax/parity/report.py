"""The results of a comparison, as JSON and as Markdown tables."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from maskrcnn_jax.parity.explanation import LeftOver
from maskrcnn_jax.parity.pairing import Pairing

PAIRED_SHARE = 0.995  # The least share of paired detections that passes.
PIXEL_SHARE = 1e-3  # The largest share of pixels of masks that may differ.


@dataclass
class Stage:
    """The largest difference of one stage over all images, for the peer's inputs."""

    name: str
    unit: str  # "relative" (to the largest value of the array), "px" or "probability".
    tolerance: float
    error: float = 0.0
    left_over: int = 0  # Boxes that only one side has.
    unexplained: int = 0

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance, and every left-over box is explained."""
        return self.error <= self.tolerance and not self.unexplained  # False for NaN.

    def add(self, error: float, left_overs: list[LeftOver] | None = None) -> None:
        """Adds the result of one image."""
        self.error = error if math.isnan(error) else max(self.error, error)
        self.left_over += len(left_overs or [])
        self.unexplained += sum(not left_over.explained for left_over in left_overs or [])


@dataclass
class Comparison:
    """Compares the detections of two sides over all images."""

    name: str
    num_images: int = 0
    num_theirs: int = 0
    num_ours: int = 0
    num_pairs: int = 0
    box_error: float = 0.0  # Largest of all pairs, in pixels of the original image.
    score_error: float = 0.0
    mask_share: float | None = None  # Largest `pairing.differing_share`; None without masks.
    num_pixels: int = 0  # As in `Pairing`.
    num_differing: int = 0
    # (name of the image, left-over box)
    left_overs: list[tuple[str, LeftOver]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of paired detections among those of both sides; 1 without detections."""
        num_detections = self.num_theirs + self.num_ours
        return 2 * self.num_pairs / num_detections if num_detections else 1.0

    @property
    def unexplained(self) -> int:
        """The number of left-over boxes without an explanation."""
        return sum(not left_over.explained for _, left_over in self.left_overs)

    @property
    def passed(self) -> bool:
        """Whether enough detections are paired with equal masks, and all others are explained."""
        has_equal_masks = self.num_differing <= PIXEL_SHARE * self.num_pixels
        return self.share >= PAIRED_SHARE and not self.unexplained and has_equal_masks

    def add(self, image: str, pairs: Pairing, left_overs: list[LeftOver]) -> None:
        """Adds the result of one image."""
        self.num_images += 1
        self.num_pairs += len(pairs.pairs)
        self.num_theirs += len(pairs.pairs) + len(pairs.theirs)
        self.num_ours += len(pairs.pairs) + len(pairs.ours)
        self.box_error = max(self.box_error, pairs.box_error)
        self.score_error = max(self.score_error, pairs.score_error)
        if pairs.mask_share is not None:
            self.mask_share = max(self.mask_share or 0.0, pairs.mask_share)
        self.num_pixels += pairs.num_pixels
        self.num_differing += pairs.num_differing
        self.left_overs += [(image, left_over) for left_over in left_overs]


@dataclass
class Report:
    """All results of a comparison. ``passed`` decides the exit code of the command."""

    title: str
    peer: str  # The name of the other program.
    stages: list[Stage]
    comparisons: list[Comparison]
    facts: dict[str, Any]  # The number and the sizes of images, and the duration.

    @property
    def passed(self) -> bool:
        """Whether all stages and comparisons passed, and there were detections to compare."""
        parts = [*self.stages, *self.comparisons]
        return all(part.passed for part in parts) and self.comparisons[0].num_theirs > 0


def to_dict(report: Report) -> dict[str, Any]:
    """The report as plain values for JSON; an infinite margin becomes None."""
    comparisons = []
    for comparison in report.comparisons:
        values = dataclasses.asdict(comparison)
        values |= {"share": comparison.share, "passed": comparison.passed}
        values["left_overs"] = [_left_over(*pair) for pair in comparison.left_overs]
        comparisons.append(values)
    stages = [dataclasses.asdict(stage) | {"passed": stage.passed} for stage in report.stages]
    heading = {"title": report.title, "peer": report.peer, "passed": report.passed}
    heading["facts"] = report.facts
    return heading | {"stages": stages, "comparisons": comparisons}


def _left_over(image: str, left_over: LeftOver) -> dict[str, Any]:
    steps = [
        step._asdict() | {"margin": step.margin if math.isfinite(step.margin) else None}
        for step in left_over.steps
    ]
    score = left_over.score if math.isfinite(left_over.score) else None
    values = {"image": image, "explained": left_over.explained, "steps": steps, "score": score}
    return left_over._asdict() | values


def to_markdown(report: Report) -> str:
    """Three tables: stages, detections, and unpaired detections with their explanations."""
    facts = ", ".join(f"{name} {value}" for name, value in report.facts.items())
    verdict = "All within tolerance." if report.passed else "**Falls short.**"
    lines = [f"## {report.title}", "", f"{facts}.", "", verdict, ""]
    header = "stage | largest difference | tolerance | unit | boxes on one side only |"
    lines += _table(header, map(_row, report.stages))
    header = f"detections | images | {report.peer} | ours | paired | box, px | score | "
    header += "mask, share of pixels | pixels inside one mask only | not paired |"
    lines += ["", *_table(header, map(_comparison_row, report.comparisons))]
    rows = [
        f"{comparison.name} | {_name(image)} | {_left_over_row(left_over)}"
        for comparison in report.comparisons
        for image, left_over in comparison.left_overs
    ]
    if rows:
        header = "not paired in | image | only in | label | score | "
        header += "explanation | margin (tolerance) |"
        lines += ["", *_table(header, rows)]
    return "\n".join(lines) + "\n"


def _table(header: str, rows: Any) -> list[str]:
    return [f"| {header}", "|" + "---|" * header.count("|"), *(f"| {row} |" for row in rows)]


def _row(stage: Stage) -> str:
    mark = "" if stage.passed else " **too much**"
    alone = f"{stage.left_over}, {stage.unexplained} unexplained" if stage.left_over else ""
    error, tolerance = f"{stage.error:.1e}{mark}", f"{stage.tolerance:.2g}"
    return f"{stage.name} | {error} | {tolerance} | {stage.unit} | {alone}"


def _comparison_row(comparison: Comparison) -> str:
    c = comparison
    left = f"{len(c.left_overs)}, {c.unexplained} unexplained" if c.left_overs else "none"
    mark = "" if c.passed else " **too few**"
    counts = f"{c.num_images} | {c.num_theirs} | {c.num_ours} | {c.share:.2%}{mark}"
    masks = "|"  # Two empty cells.
    if c.mask_share is not None:
        masks = f"{c.mask_share:.2%} | {c.num_differing} of {c.num_pixels}"
    return f"{c.name} | {counts} | {c.box_error:.1e} | {c.score_error:.1e} | {masks} | {left}"


def _left_over_row(left_over: LeftOver) -> str:
    text = "; ".join(step.text for step in left_over.steps)
    worst = max(left_over.steps, key=lambda step: step.margin - step.tolerance)
    if not left_over.explained:
        text = f"**unexplained**: {text}"
    decisive = [step for step in left_over.steps if step.tolerance] or [worst]
    margins = ", ".join(f"{step.margin:.1e} ({step.tolerance:.0e})" for step in decisive)
    return f"{left_over.side} | {left_over.label} | {left_over.score:.6f} | {text} | {margins}"


def _name(image: str) -> str:
    return image.replace("|", "/")
