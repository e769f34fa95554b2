"""Tells which stage of the network an instruction belongs to, and which lines of source made it."""

import re
from pathlib import PurePosixPath

from maskrcnn_jax.planning.hlo import Frame, Instruction, Program

OTHER = "other"
# A file of this package in the path of a line of source; folders of packages have no dots.
_OWN = re.compile(r"(?:^|/)maskrcnn_jax/((?:\w+/)*\w+\.py)$")
MAX_LINES = 3

# Stages by the functions on the stack, then by the scopes that flax gives modules and methods. The
# first that fits counts: the targets call the ops of the proposals, and all lie in ``losses``.
_FUNCTIONS = {
    "anchor_targets": r"targets\.py:anchor_targets\b",
    "roi_targets": r"targets\.py:roi_targets\b",
    "mask_targets": r"targets\.py:mask_targets\b",
    "detections": r"^detections\.py:",
    "proposals": r"^proposals\.py:",
    "losses": r"^(losses|diagnostics)\.py:",
    "roi_align": r"^(poolers\.py|ops/roi_pooling/.*):",
}
_SCOPES = {
    "roi_align": {"pool"},
    "proposals": {"propose"},
    "mask_head": {"mask_head"},
    "box_head": {"box_head"},
    "rpn": {"rpn"},
    "fpn": {"fpn"},
    "backbone": {"backbone", "normalise"},
    "losses": {"losses", "total"},
}
_OPTIMIZER = r"^training\.py:"


def stage_of(program: Program, instruction: Instruction) -> str:
    """The stage of an instruction, such as ``fpn`` or ``fpn, backward``; empty if unknown."""
    for origin in program.origins(instruction):
        if stage := _name(origin.op_name, program.stack(origin)):
            return f"{stage}, backward" if "transpose(" in origin.op_name else stage
    return ""


def source_of(program: Program, instruction: Instruction) -> str:
    """The innermost lines of this package that an instruction comes from."""
    for origin in program.origins(instruction):
        stack = program.stack(origin)
        if lines := [f"{own}:{frame.line}" for frame in stack if (own := _own_file(frame))]:
            return " < ".join(lines[:MAX_LINES])
    return ""


def _name(op_name: str, stack: list[Frame]) -> str:
    functions = [f"{own}:{frame.function}" for frame in stack if (own := _own_file(frame))]
    for stage, pattern in _FUNCTIONS.items():
        if any(re.search(pattern, function) for function in functions):
            return stage
    scopes = set(re.split(r"[/().]", op_name))
    for stage, names in _SCOPES.items():
        if scopes & names:
            return stage
    return "optimizer" if any(re.search(_OPTIMIZER, x) for x in functions) else ""


def _own_file(frame: Frame) -> str:
    """The path within this package, or nothing."""
    found = _OWN.search(PurePosixPath(frame.file).as_posix())
    return found[1] if found else ""
