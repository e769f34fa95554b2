"""Trains Mask R-CNN, evaluates it, and saves everything in a run directory.

    maskrcnn-jax train --config=configs/shapes.py --workdir=runs/shapes
    maskrcnn-jax train --config=configs/r50_fpn_1x.py --workdir=runs/r50 \\
        --config.seed=1

Started again with the same directory, a run resumes at its last checkpoint.
The settings of execution (--config.execution.rematerialise=true, ...) and of
detection (--config.detection.num_detections=300, ...) may change then; the
model may not.

--config.model.mask_head=None trains Faster R-CNN: boxes without masks.

A new run starts from random weights, from a backbone
(--config.backbone_weights=PATH, IMAGENET1K_V1 or IMAGENET1K_V2), or from a
whole detector (--config.weights=PATH or COCO_V1). If the detector has another
number of classes, the layers with an output for each class start from random
weights; with the same number, its labels keep their meaning. If the config
leaves model.backbone.norm_eps at its default, the run takes the eps of the
detector's weights, which is 0 for the released maskrcnn_resnet50_fpn, and
writes that value into its config.json.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from maskrcnn_jax import config_check, distributed, evaluation
from maskrcnn_jax.cli import exits, ignored_errors, memory, outputs, streams, training_loop
from maskrcnn_jax.cli.start import claim_results, print_once
from maskrcnn_jax.config import Config
from maskrcnn_jax.xla import cache

NAME = "maskrcnn-jax train"

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment; change a field by --config.model.backbone.depth=101."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, evaluation."
)
FORCE = flags.DEFINE_bool(
    "force", False, "Replaces results in --workdir that no run has written, or that were changed."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Joins the other processes of a TPU pod, of Slurm or of Open MPI.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where the environment does not provide it."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "With --coordinator: the number of processes.", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With --coordinator: the index of this process, from 0.", lower_bound=0
)


def run(program: str, arguments: Sequence[str]) -> NoReturn:
    """Runs the command and exits.

    Exit codes are 0 for success, 2 for a mistake of the user, 130 after Ctrl-C and 143 after
    SIGTERM.

    Args:
        program: The name by which the user has called the command; its messages begin with it.
        arguments: The flags.
    """
    if {"-h", "--help"} & set(arguments):
        print(about(program))
        sys.exit(0)
    sys.argv = [program, *arguments]  # ml_collections reads the changed fields from there.
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, argv=sys.argv, flags_parser=parse)


def about(program: str) -> str:
    """The help text of the command."""
    called = f"python {program}" if program.endswith(".py") else program
    return f"{(__doc__ or '').replace(NAME, called)}{flags.FLAGS.module_help(__name__)}"


def parse(arguments: list[str]) -> list[str]:
    """Reads the command line and runs the config file; handles mistakes as `main` does."""
    try:
        remaining = flags.FLAGS(arguments)
        if isinstance(CONFIG.value, Config):
            config_check.check(CONFIG.value)
            return remaining
        error: Exception = ValueError("get_config must return a Config")
    except Exception as raised:  # A user's file may raise anything.
        error = raised
    sys.exit(exits.refuse(exits.explain(error, arguments), arguments[0]))


def main(arguments: list[str]) -> None:
    """Trains as the flags say; a user's mistake ends in one message and exit code 2.

    Args:
        arguments: The name of the program, and the arguments that are no flags.
    """
    program, *rest = arguments
    logging.set_verbosity(logging.WARNING)  # Orbax reports every thread it starts.
    ignored_errors.handle()
    streams.be_lenient()
    cache.keep_compiled_programs()
    try:
        _train(rest)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        exits.leave(exits.refuse(error, program))
    except distributed.Preempted as reason:
        print_once(f"{reason.name}: {reason}; the same command goes on from there")
        streams.flush()
        sys.exit(reason.code)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        exits.leave(distributed.EXIT_INTERRUPTED)
    except jax.errors.JaxRuntimeError as error:
        if memory.ran_out(error):
            exits.leave(exits.refuse(error, program))
        if jax.process_count() == 1:
            raise
        lost = f"{program}: process {jax.process_index()} lost the others: {error}"
        print(lost, file=sys.stderr)
        exits.leave(distributed.EXIT_LOST)


def _train(rest: list[str]) -> None:
    if rest:
        advice = "fields of the config are set by --config.FIELD=VALUE"
        raise ValueError(f"{rest[0]!r} is no option: {advice}")
    if DISTRIBUTED.value or COORDINATOR.value:
        distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    workdir = Path(os.path.expanduser(WORKDIR.value))
    outputs.make_directory(workdir, "--workdir")
    with claim_results(workdir, FORCE.value) as announce:
        result = training_loop.train(CONFIG.value, workdir, announce, sys.argv)
    print_once(evaluation.headline(result))
    print_once(f"curves, numbers and images in {workdir}/report.html")
    if unwritten := streams.flush():
        raise OSError(unwritten)
