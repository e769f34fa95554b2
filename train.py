"""Trains Mask R-CNN, evaluates it, and saves everything in a run directory.

    python train.py --config=configs/shapes.py --workdir=runs/shapes
    python train.py --config=configs/r50_fpn_1x.py --workdir=runs/r50 --config.seed=1

Started again with the same directory, a run resumes at its last checkpoint. The settings of
execution (--config.execution.rematerialise=true, ...) and of detection
(--config.detection.num_detections=300, ...) may change then; the model may not.

--config.model.mask_head=None trains Faster R-CNN: boxes without masks.

A new run starts from random weights, from a backbone (--config.backbone_weights=PATH, IMAGENET1K_V1
or IMAGENET1K_V2), or from a whole detector (--config.weights=PATH or COCO_V1). If the detector has
another number of classes, the layers with an output for each class start from random weights;
with the same number, its labels keep their meaning. If the config leaves model.backbone.norm_eps at
its default, the run takes the eps of the detector's weights, which is 0 for the released
maskrcnn_resnet50_fpn, and writes that value into its config.json.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import config_flags
from rich.progress import Progress, TaskID

from maskrcnn_jax import config_check, distributed, evaluation, execution, sharding, training
from maskrcnn_jax.cli import exits, memory, outputs, streams
from maskrcnn_jax.cli.start import Start, claim_results, prepare, print_once
from maskrcnn_jax.cli.training_bar import progress_bar
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import checks
from maskrcnn_jax.data.lost_images import LostImages
from maskrcnn_jax.data.pipeline import eval_batches, train_batches
from maskrcnn_jax.drawing import gallery
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops.rounding import ceil_div
from maskrcnn_jax.report import run_page
from maskrcnn_jax.runs.checkpoints import Checkpoints, NotSaved
from maskrcnn_jax.runs.metrics import MetricsLog
from maskrcnn_jax.xla import cache, compiler

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


class Session(NamedTuple):
    """The objects that serve a run from its first step to its last."""

    start: Start
    model: MaskRCNN
    log: MetricsLog
    checkpoints: Checkpoints
    preemption: distributed.Preemption
    progress: Progress


def train(
    config: Config, workdir: str | Path, announce: Callable[[], object] = lambda: None
) -> evaluation.Evaluation:
    """Takes the remaining steps of an experiment, and returns the last evaluation.

    ``announce`` is called before the results are written.

    Raises:
        Preempted: SIGTERM or Ctrl-C came. The state after the last step is saved.
        OSError: More than half of the images since the last log entry cannot be read, or a file
            cannot be written. A single process has saved the state, if it could be saved.
    """
    mesh = make_mesh(config)
    run = execution.choose(config.execution, mesh)
    if run.small_on_cpu:
        compiler.return_memory_after_compiling()

    start = prepare(config, workdir)
    config = start.config
    model = MaskRCNN(config.model, config.detection, run)
    optimizer = training.make_optimizer(config, start.variables["params"])
    train_step = training.compile_step(model, optimizer, config)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints, config.keep_best)
    state = restore_or_create(start, optimizer, checkpoints, mesh)
    first = int(state.step)

    key = jax.random.key(config.seed)
    learning_rate = training.learning_rate(config.optimizer, config.batch_size, config.num_steps)
    lost = LostImages(workdir, jax.process_index())
    batches = open_batches(start, mesh, first, lost)
    log = MetricsLog(Path(workdir) / "metrics.jsonl", first, writes=distributed.is_first())
    for step, ap in log.ap.items():
        checkpoints.rate(step, ap)
    preemption = distributed.Preemption()

    with (
        contextlib.closing(preemption),
        contextlib.closing(log),
        checkpoints,
        contextlib.closing(batches),
        progress_bar() as progress,
    ):
        session = Session(start, model, log, checkpoints, preemption, progress)
        status = "compiling" if first < config.num_steps else ""
        task = progress.add_task("train", total=config.num_steps, completed=first, status=status)
        is_evaluated = first in log.ap or not is_due(first, config.evaluate_every)
        if 0 < first < config.num_steps and not is_evaluated:
            evaluate(session, state)  # The run stopped between this step and its evaluation.
        try:
            for step in range(first + 1, config.num_steps + 1):
                state, metrics = train_step(state, sharding.shard_batch(next(batches), mesh), key)
                log.add(step, metrics)
                last, stopping = step == config.num_steps, preemption.reached(step)
                evaluating = not last and is_due(step, config.evaluate_every)
                saving = last or stopping or evaluating or is_due(step, config.save_every)
                # Each checkpoint follows a log entry, so a run that resumes there logs no step
                # twice.
                if saving or is_due(step, config.log_every):
                    rate = float(learning_rate(step - 1))
                    means = log.flush(step, config.batch_size, learning_rate=rate)
                    show(session, task, step, means)
                    check_images(session, state, means)
                if saving:
                    checkpoints.save(state)  # `log.flush` has checked that all losses are finite.
                if stopping:
                    checkpoints.wait()
                    raise stopping(f"saved after step {step}")
                if evaluating:
                    evaluate(session, state)
        except NotSaved:
            raise
        except (OSError, ValueError, MemoryError) as error:
            save_before_leaving(session, state, error)
            raise
        result = evaluate(session, state)
    if distributed.is_first():
        announce()
        write_results(workdir, start, result)
    return result


def make_mesh(config: Config) -> Mesh:
    """The devices to train on; raises ValueError if they cannot share batches and buckets."""
    num_devices, space = config.execution.num_devices, config.execution.space
    mesh = sharding.make_mesh(num_devices, config.batch_size, space=space)
    sharding.check_buckets(config.data.buckets, space)
    return mesh


def restore_or_create(
    start: Start,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    mesh: Mesh,
) -> training.TrainState:
    """The state of the last checkpoint or, in a new run, the initial one; on all devices."""
    keeps_average = start.config.optimizer.average_decay is not None
    state = training.create_state(start.variables, optimizer, average=keeps_average)
    state = sharding.replicate(state, mesh)
    return checkpoints.restore(state) or state


def open_batches(start: Start, mesh: Mesh, first: int, lost: LostImages) -> Any:
    """Iterates over this process's share of the batches after step ``first``."""
    config = start.config
    return train_batches(
        start.train_data,
        config.data,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=first,
        rows=sharding.local_rows(mesh, config.batch_size),
        masks=start.has_masks,
        lost=None if config.data.strict else lost,
    )


def check_images(session: Session, state: training.TrainState, means: dict[str, float]) -> None:
    """Stops a run whose images have gone; all processes see the same means, and stop together."""
    if means["missing_images"] <= 0.5:
        return
    session.checkpoints.save(state)
    session.checkpoints.wait()
    raise OSError(
        f"{means['missing_images']:.0%} of the images cannot be read any more: saved after step "
        f"{state.step}; when they are back, the same command goes on"
    )


def save_before_leaving(session: Session, state: training.TrainState, error: Exception) -> None:
    """Saves the state after the last whole step. Several processes could not save together here."""
    if jax.process_count() > 1 or any(x.is_deleted() for x in jax.tree.leaves(state)):
        return
    step, config = int(state.step), session.start.config
    with contextlib.suppress(OSError):
        if not session.log.is_empty:
            session.log.flush(step, config.batch_size)
    with contextlib.suppress(OSError):  # The reason for leaving may be a full disk.
        session.checkpoints.save(state)
        session.checkpoints.wait()
        if (note := f"saved after step {step}") not in str(error):
            error.add_note(note)


def evaluate(session: Session, state: training.TrainState) -> evaluation.Evaluation:
    """Evaluates a state on the validation set, and logs, rates and prints the result.

    Raises:
        Preempted: SIGTERM came. The state was saved before the evaluation.
    """
    start, progress = session.start, session.progress
    index, count = jax.process_index(), jax.process_count()
    lost: dict[int, str] = {}
    batches = eval_batches(
        start.val_data,
        start.config.data,
        batch_size=start.config.test_batch_size,
        share=(index, count),
        masks=start.has_masks,
        lost=lost,
    )
    num_images = ceil_div(len(start.val_data), count)
    task = progress.add_task("evaluate", total=num_images, status="")

    def advance(num_done: int) -> None:
        if session.preemption.noticed:
            during = f"saved after step {state.step}, during an evaluation"
            raise session.preemption.noticed(during)
        progress.advance(task, num_done)

    categories = start.train_data.categories
    result = evaluation.evaluate(
        session.model,
        state.variables,
        batches,
        start.annotations,
        categories,
        start.config,
        advance=advance,
    )
    progress.remove_task(task)
    step = int(state.step)
    numbers = result.numbers | {"validation": result.losses}
    shown = checks.without(start.val_data, result.missing)
    draw = partial(gallery.samples, shown, result.detections, categories)
    session.log.write_evaluation(step, numbers, draw)
    session.checkpoints.rate(step, result.ap)
    progress.console.print(f"step {step}: {evaluation.headline(result)}")
    if result.missing:
        told = (
            f"{len(result.missing)} validation images are missing in this: {checks.summary(lost)}"
        )
        progress.console.print(told, markup=False)
    return result


def write_results(workdir: str | Path, start: Start, result: evaluation.Evaluation) -> None:
    """Writes the last evaluation of a run: numbers, detections, drawings and a page."""
    evaluation.write(workdir, result)
    path, shown = Path(workdir) / "predictions.png", checks.without(start.val_data, result.missing)
    gallery.write(path, shown, result.detections, start.train_data.categories)
    run_page.write(workdir, result, shown, start.annotations)


def show(session: Session, task: TaskID, step: int, means: dict[str, float]) -> None:
    """Shows the mean loss and the speed beside the bar, or prints them where no bar is drawn."""
    progress, num_steps = session.progress, session.start.config.num_steps
    status = f"loss {means['loss']:.3f}, {means['images_per_second']:.2f} images/s"
    progress.update(task, completed=step, status=status)
    if not progress.console.is_terminal:
        progress.console.print(f"step {step} of {num_steps}: {status}")


def is_due(step: int, interval: int) -> bool:
    """Whether a step is a multiple of the interval; never if the interval is 0."""
    return interval > 0 and step % interval == 0


def main(arguments: list[str]) -> None:
    """Reads the flags and trains; a user's mistake ends in one message and exit code 2."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every thread it starts.
    exits.hide_abandoned_writes()
    streams.be_lenient()
    cache.keep_compiled_programs()
    try:
        if arguments[1:]:
            advice = "fields of the config are set by --config.FIELD=VALUE"
            raise ValueError(f"{arguments[1]!r} is no option: {advice}")
        if DISTRIBUTED.value or COORDINATOR.value:
            distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        workdir = Path(os.path.expanduser(WORKDIR.value))
        outputs.make_directory(workdir, "--workdir")
        with claim_results(workdir, FORCE.value) as announce:
            result = train(CONFIG.value, workdir, announce)
        print_once(evaluation.headline(result))
        print_once(f"curves, numbers and images in {workdir}/report.html")
        if unwritten := streams.flush():
            raise OSError(unwritten)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        exits.leave(exits.refuse(error))
    except distributed.Preempted as reason:
        print_once(f"{reason.name}: {reason}; the same command goes on from there")
        streams.flush()
        sys.exit(reason.code)
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        exits.leave(distributed.EXIT_INTERRUPTED)
    except jax.errors.JaxRuntimeError as error:
        if memory.ran_out(error):
            exits.leave(exits.refuse(error))
        if jax.process_count() == 1:
            raise
        print(f"train.py: process {jax.process_index()} lost the others: {error}", file=sys.stderr)
        exits.leave(distributed.EXIT_LOST)


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
    sys.exit(exits.refuse(exits.explain(error, arguments)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
