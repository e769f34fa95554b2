"""The training loop: `train` opens a run, takes its remaining steps and writes its results."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from maskrcnn_jax import distributed, evaluation, execution, sharding, training
from maskrcnn_jax.cli.session import (
    Session,
    check_images,
    evaluate,
    open_session,
    save_before_leaving,
    show,
    write_results,
)
from maskrcnn_jax.cli.start import Start, prepare
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.lost_images import LostImages
from maskrcnn_jax.data.pipeline import train_batches
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.runs.checkpoints import Checkpoints, NotSaved
from maskrcnn_jax.xla import compiler


def train(
    config: Config,
    workdir: str | Path,
    announce: Callable[[], object] = lambda: None,
    command: Sequence[str] = (),
) -> evaluation.Evaluation:
    """Takes the remaining steps of an experiment, and returns the last evaluation.

    ``announce`` is called before the results are written. The words of ``command`` are recorded.

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
    if command and distributed.is_first():
        run_directory.add_command(workdir, command)
    model = MaskRCNN(config.model, config.detection, run)
    optimizer = training.make_optimizer(config, start.variables["params"])
    train_step = training.compile_step(model, optimizer, config)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints, config.keep_best)
    state = restore_or_create(start, optimizer, checkpoints, mesh)

    first = int(state.step)
    with (
        open_session(start, model, checkpoints, workdir, first) as session,
        open_batches(start, mesh, workdir, first) as batches,
    ):
        state = take_steps(session, state, train_step, batches)
        result = evaluate(session, state)
    if distributed.is_first():
        announce()
        write_results(workdir, start, result)
    return result


def take_steps(
    session: Session,
    state: training.TrainState,
    train_step: Callable[..., Any],
    batches: Iterator[Any],
) -> training.TrainState:
    """Takes the remaining steps, and returns the state after the last one."""
    config, first = session.start.config, int(state.step)
    is_evaluated = first in session.log.ap or not is_due(first, config.evaluate_every)
    if 0 < first < config.num_steps and not is_evaluated:
        evaluate(session, state)  # The run stopped between this step and its evaluation.
    key = jax.random.key(config.seed)
    try:
        for step in range(first + 1, config.num_steps + 1):
            state, metrics = train_step(state, next(batches), key)
            session.log.add(step, metrics)
            finish_step(session, state, step)
    except NotSaved:
        raise
    except (OSError, ValueError, MemoryError) as error:
        save_before_leaving(session, state, error)
        raise
    return state


def finish_step(session: Session, state: training.TrainState, step: int) -> None:
    """Logs, saves, stops and evaluates, where the config or a signal asks for it.

    Each checkpoint follows a log entry, so a run that resumes there logs no step twice.
    """
    config, checkpoints = session.start.config, session.checkpoints
    last, stopping = step == config.num_steps, session.preemption.reached(step)
    evaluating = not last and is_due(step, config.evaluate_every)
    saving = last or stopping or evaluating or is_due(step, config.save_every)
    logging = saving or is_due(step, config.log_every)
    if logging:
        log(session, state, step)
    if saving:
        checkpoints.save(state)  # `log` has checked that all losses are finite.
    if stopping:
        checkpoints.wait()
        raise stopping(f"saved after step {step}")
    if evaluating:
        evaluate(session, state)
    if logging:
        compiler.return_memory()  # Of Orbax's threads, which end a while after each save.


def log(session: Session, state: training.TrainState, step: int) -> None:
    """Logs and shows the means since the last entry.

    Raises:
        FloatingPointError: A loss is not finite.
        OSError: More than half of the images cannot be read, or the entry cannot be written.
    """
    config = session.start.config
    schedule = training.learning_rate(config.optimizer, config.batch_size, config.num_steps)
    rate = float(schedule(step - 1))
    means = session.log.flush(step, config.batch_size, learning_rate=rate)
    show(session, step, means)
    check_images(session, state, means)


def is_due(step: int, interval: int) -> bool:
    """Whether a step is a multiple of the interval; never if the interval is 0."""
    return interval > 0 and step % interval == 0


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


@contextlib.contextmanager
def open_batches(
    start: Start, mesh: Mesh, workdir: str | Path, first: int
) -> Iterator[Iterator[Any]]:
    """Iterates over the batches after step ``first``; this process reads its share of each."""
    config = start.config
    batches = train_batches(
        start.train_data,
        config.data,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=first,
        rows=sharding.local_rows(mesh, config.batch_size),
        masks=start.has_masks,
        lost=None if config.data.strict else LostImages(workdir, jax.process_index()),
    )
    with contextlib.closing(batches):
        yield map(partial(sharding.shard_batch, mesh=mesh), batches)
