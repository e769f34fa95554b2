"""The stage of the network and the lines of source that an instruction comes from."""

import pytest

from maskrcnn_jax.planning import hlo, origins
from tests.planning.test_hlo import TEXT

SITE = "/site/maskrcnn_jax/"


def test_a_copy_belongs_to_the_instruction_that_reads_it():
    program = hlo.parse(TEXT)
    for name in ("copy", "fusion", "twice"):
        instruction = program.instructions[name]
        assert origins.stage_of(program, instruction) == "fpn"
        source = origins.source_of(program, instruction)
        assert source == "modules/fpn.py:40 < train_tool.py:3"


def one_instruction(op_name, *frames):
    """A program with an instruction of this scope and this stack, the innermost frame first.

    Args:
        op_name: The scope that flax gave.
        frames: Pairs of a file and a function.
    """
    files, functions, locations, stack = [], [], [], []
    for i, (file, function) in enumerate(reversed(frames), start=1):
        files.append(f'{i} "{file}"')
        functions.append(f'{i} "{function}"')
        locations.append(f"{i} {{file_name_id={i} function_name_id={i} line={i}}}")
        stack.append(f"{i} {{file_location_id={i} parent_frame_id={i}}}")
    tables = {"FileNames": files, "FunctionNames": functions}
    tables |= {"FileLocations": locations, "StackFrames": stack}
    text = "\n\n".join("\n".join([name, *lines]) for name, lines in tables.items())
    metadata = f'metadata={{op_name="{op_name}" stack_frame_id={len(frames)}}}'
    text += "\n\nENTRY %main (a: f32[8]) -> f32[8] {\n  %a = f32[8]{0} parameter(0)\n"
    found = hlo.parse(f"{text}  ROOT %b = f32[8]{{0}} copy(%a), {metadata}\n}}\n")
    return found, found.instructions["b"]


@pytest.mark.parametrize(
    "op_name, frames, stage",
    [
        ("jit(f)/Model/fpn/conv", [], "fpn"),
        ("jit(f)/Model/backbone/layer1_0/conv1/conv", [], "backbone"),
        ("jit(f)/transpose(jvp(Model))/rpn/conv", [], "rpn, backward"),
        # The targets call the ops of the proposals, and lie in the scope of the losses.
        (
            "jit(f)/losses/nms",
            [("ops/nms.py", "nms"), ("targets.py", "anchor_targets")],
            "anchor_targets",
        ),
        ("jit(f)/losses/x", [("targets.py", "mask_targets")], "mask_targets"),
        ("jit(f)/losses/x", [("losses.py", "rpn_loss")], "losses"),
        ("jit(f)/propose/x", [("detections.py", "detect")], "detections"),
        ("jit(f)/x", [("ops/roi_pooling/gather.py", "pool")], "roi_align"),
        ("jit(f)/pool/x", [], "roi_align"),
        ("jit(f)/x", [("training.py", "train_step")], "optimizer"),
        ("jit(f)/x", [("ops/nms.py", "nms")], ""),
        ("jit(f)/x", [], ""),
    ],
)
def test_stages(op_name, frames, stage):
    frames = [(SITE + file, function) for file, function in frames]
    assert origins.stage_of(*one_instruction(op_name, *frames)) == stage


def test_only_lines_of_this_package_count():
    frames = [(f"{SITE}ops/{name}.py", "f") for name in "abcd"]
    frames.insert(1, ("/site/jax/maskrcnn_jax.py", "g"))
    frames.insert(0, ("/site/optax/update.py", "g"))
    source = origins.source_of(*one_instruction("jit(f)/x", *frames))
    assert source == "ops/a.py:5 < ops/b.py:3 < ops/c.py:2"
    assert origins.source_of(*one_instruction("jit(f)/x", ("/site/jax/lax.py", "g"))) == ""
