"""The log, evaluations, checkpoints and progress bar of a run that trains."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from rich.progress import Progress, TaskID

from maskrcnn_jax import distributed, evaluation, training
from maskrcnn_jax.cli.start import Start
from maskrcnn_jax.cli.training_bar import progress_bar
from maskrcnn_jax.data import checks
from maskrcnn_jax.data.pipeline import eval_batches
from maskrcnn_jax.drawing import channels, gallery
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops.rounding import ceil_div
from maskrcnn_jax.report import run_page
from maskrcnn_jax.runs.checkpoints import Checkpoints
from maskrcnn_jax.runs.metrics import MetricsLog


class Session(NamedTuple):
    """The objects that serve a run from its first step to its last."""

    start: Start
    model: MaskRCNN
    log: MetricsLog
    checkpoints: Checkpoints
    preemption: distributed.Preemption
    progress: Progress
    task: TaskID  # The bar of the steps.


@contextlib.contextmanager
def open_session(
    start: Start, model: MaskRCNN, checkpoints: Checkpoints, workdir: str | Path, first: int
) -> Iterator[Session]:
    """Opens the log and the progress bar of a run that has taken ``first`` steps."""
    num_steps = start.config.num_steps
    log = MetricsLog(Path(workdir) / "metrics.jsonl", first, writes=distributed.is_first())
    for step, ap in log.ap.items():
        checkpoints.rate(step, ap)
    preemption = distributed.Preemption()
    with (
        contextlib.closing(preemption),
        contextlib.closing(log),
        checkpoints,
        progress_bar() as progress,
    ):
        status = "compiling" if first < num_steps else ""
        task = progress.add_task("train", total=num_steps, completed=first, status=status)
        yield Session(start, model, log, checkpoints, preemption, progress, task)


def show(session: Session, step: int, means: dict[str, float]) -> None:
    """Shows the mean loss and the speed beside the bar, or prints them where no bar is drawn."""
    progress, num_steps = session.progress, session.start.config.num_steps
    status = f"loss {means['loss']:.3f}, {means['images_per_second']:.2f} images/s"
    progress.update(session.task, completed=step, status=status)
    if not progress.console.is_terminal:
        progress.console.print(f"step {step} of {num_steps}: {status}")


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
    start, step, console = session.start, int(state.step), session.progress.console
    result, lost = _run_evaluation(session, state)
    numbers = result.numbers | {"validation": result.losses}
    shown = _shown(start, result)
    draw = partial(gallery.samples, shown, result.detections, start.val_data.categories)
    session.log.write_evaluation(step, numbers, draw)
    session.checkpoints.rate(step, result.ap)
    console.print(f"step {step}: {evaluation.headline(result)}")
    if result.missing:
        count, reasons = len(result.missing), checks.summary(lost)
        told = f"{count} validation images are missing in this: {reasons}"
        console.print(told, markup=False)
    return result


def _shown(start: Start, result: evaluation.Evaluation) -> channels.Shown:
    """The validation images that could be read, with the channels to draw."""
    readable = checks.without(start.val_data, result.missing)
    return channels.Shown(readable, start.config.data.shown_channels)


def _run_evaluation(
    session: Session, state: training.TrainState
) -> tuple[evaluation.Evaluation, dict[int, str]]:
    """The evaluation of a state, and the images that could not be read with their reasons."""
    start, progress, config = session.start, session.progress, session.start.config
    index, count = jax.process_index(), jax.process_count()
    lost: dict[int, str] = {}
    batches = eval_batches(
        start.val_data,
        config.data,
        batch_size=config.test_batch_size,
        share=(index, count),
        masks=start.has_masks,
        lost=lost,
    )
    task = progress.add_task("evaluate", total=ceil_div(len(start.val_data), count), status="")

    def advance(num_done: int) -> None:
        if session.preemption.noticed:
            during = f"saved after step {state.step}, during an evaluation"
            raise session.preemption.noticed(during)
        progress.advance(task, num_done)

    result = evaluation.evaluate(
        session.model,
        state.variables,
        batches,
        start.annotations,
        start.val_data.categories,
        config,
        advance=advance,
    )
    progress.remove_task(task)
    return result, lost


def write_results(workdir: str | Path, start: Start, result: evaluation.Evaluation) -> None:
    """Writes the last evaluation of a run: numbers, detections, drawings and a page."""
    evaluation.write(workdir, result)
    path, shown = Path(workdir) / "predictions.png", _shown(start, result)
    gallery.write(path, shown, result.detections, start.val_data.categories)
    run_page.write(workdir, result, shown, start.annotations)
