"""Trains Mask R-CNN, evaluates it, and saves everything in a run directory.

    python train.py --config=configs/shapes.py --workdir=runs/shapes
    python train.py --config=configs/r50_fpn_1x.py --workdir=runs/r50 --config.optimizer.learning_rate=0.01

Started again with the same directory, a run goes on from its last checkpoint.

A new run starts from random weights, from a backbone (--config.model.backbone_weights=PATH, IMAGENET1K_V1 or
IMAGENET1K_V2), or from a whole detector (--config.weights=PATH or COCO_V1). Of a detector with another number of
classes, the layers with an output for each class start from random weights; with the same number, labels mean what they
meant for it. If the config leaves model.norm_eps at its default, it becomes that of the detector's weights, 0 for the
released maskrcnn_resnet50_fpn; the config.json of the run says what it was.
"""

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging
from ml_collections import config_flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from maskrcnn_jax import cache, config_check, distributed, evaluation, gallery, sharding, training
from maskrcnn_jax.checkpoints import Checkpoints, write_run
from maskrcnn_jax.cli import config_file, memory, outputs
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pipeline import check_sizes, eval_batches, train_batches
from maskrcnn_jax.data.sources import Dataset, check_categories, open_train, open_val
from maskrcnn_jax.metrics import MetricsLog
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.report import run_page
from maskrcnn_jax.weights import backbones, loading

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment; change a field by --config.model.depth=101.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, evaluation.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes: on a TPU pod, under Slurm or Open MPI, they find each other."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where nothing says so.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many there are.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which one this is.", lower_bound=0)


class Start(NamedTuple):
    """What a run begins with: its data, and variables of the model that no step has changed yet."""

    config: Config
    train_data: Dataset
    val_data: Dataset
    annotations: dict[str, Any]  # Of the validation set, in COCO's format.
    variables: dict[str, Any]


def prepare(config: Config, workdir: str | Path) -> Start:
    """Opens the data, writes the run directory, and makes or loads the variables of the model."""
    with distributed.first_goes_first("weights"):  # It may have to download them.
        detector = loading.load(config.weights, config.model, seed=config.seed) if config.weights else None
    if detector is not None:
        print_once(detector.report)
        config = dataclasses.replace(config, model=detector.config.model)
    categories = detector.categories if detector is not None else None
    train_data = open_train(config.data, categories)
    val_data, annotations = open_val(config.data, categories)
    check_categories(config.model, train_data.categories, val_data.categories)
    check_sizes(train_data, val_data, config.data)
    with distributed.first_goes_first("run directory"):
        write_run(workdir, config, train_data.categories)

    # Where the numbers come from, the later winning: chance, a backbone, a detector, the last checkpoint of this run.
    if detector is not None:
        return Start(config, train_data, val_data, annotations, detector.variables)
    variables = training.init_variables(MaskRCNN(config.model), config.seed)
    if config.model.backbone_weights is not None:
        with distributed.first_goes_first("backbone"):
            variables = backbones.load(config.model.backbone_weights, variables, config.model)
    return Start(config, train_data, val_data, annotations, variables)


def train(config: Config, workdir: str | Path) -> evaluation.Evaluation:
    """Takes the steps of an experiment that are still to be taken, and returns the last evaluation.

    Raises:
        Preempted: SIGTERM came; everything so far is saved.
    """
    config, train_data, val_data, annotations, variables = prepare(config, workdir)
    mesh = sharding.make_mesh(config.num_devices, config.batch_size, space=config.space)
    sharding.check_buckets(config.data.buckets, mesh)
    optimizer = training.make_optimizer(config, variables["params"])
    state = training.create_state(variables, optimizer, average=config.optimizer.average_decay is not None)
    state = sharding.replicate(state, mesh)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints, config.keep_best)
    state = checkpoints.restore(state) or state
    start = int(state.step)

    model = MaskRCNN(config.model)
    sharded_model = MaskRCNN(config.model, sharding.per_image(mesh), mesh)
    train_step = training.compile_step(sharded_model, optimizer, config)
    key = jax.random.key(config.seed)
    learning_rate = training.learning_rate(config.optimizer, config.batch_size, config.num_steps)
    rows = sharding.local_rows(mesh, config.batch_size)
    batches = train_batches(
        train_data, config.data, batch_size=config.batch_size, seed=config.seed, start_step=start, rows=rows
    )
    log = MetricsLog(Path(workdir) / "metrics.jsonl", start, writes=distributed.is_first())
    for step, mask_ap in log.mask_ap.items():
        checkpoints.rate(step, mask_ap)
    preemption = distributed.Preemption()

    def evaluate() -> evaluation.Evaluation:
        share = jax.process_index(), jax.process_count()
        held_out = eval_batches(val_data, config.data, batch_size=config.test_batch_size, share=share)
        task = progress.add_task("evaluate", total=-(-len(val_data) // share[1]), status="")

        def advance(num_images: int) -> None:
            if preemption.noticed:  # The state was saved before.
                raise distributed.Preempted(f"saved after step {state.step}, in the middle of an evaluation")
            progress.advance(task, num_images)

        categories = train_data.categories
        result = evaluation.evaluate(model, state.variables, held_out, annotations, categories, config, advance=advance)
        progress.remove_task(task)
        step = int(state.step)
        numbers = {"bbox": result.bbox, "segm": result.segm, "validation": result.losses}
        log.write_evaluation(step, numbers, lambda: gallery.samples(val_data, result.detections, categories))
        checkpoints.rate(step, result.segm["AP"])
        progress.console.print(f"step {step}: {evaluation.headline(result)}")
        return result

    with (
        contextlib.closing(preemption),
        contextlib.closing(log),
        contextlib.closing(checkpoints),
        contextlib.closing(batches),
        progress_bar() as progress,
    ):
        status = "compiling" if start < config.num_steps else ""
        task = progress.add_task("train", total=config.num_steps, completed=start, status=status)
        if 0 < start < config.num_steps and is_due(start, config.evaluate_every) and start not in log.mask_ap:
            evaluate()  # The run was stopped before it had done so.
        for step in range(start + 1, config.num_steps + 1):
            state, metrics = train_step(state, sharding.spread(next(batches), mesh), key)
            log.add(step, metrics)
            last, stopping = step == config.num_steps, preemption.reached(step)
            evaluating = not last and is_due(step, config.evaluate_every)
            saving = last or stopping or evaluating or is_due(step, config.save_every)
            # An entry before each checkpoint: a run that goes on from there logs each step once.
            if saving or is_due(step, config.log_every):
                means = log.flush(step, config.batch_size, learning_rate=float(learning_rate(step - 1)))
                status = f"loss {means['loss']:.3f}, {means['images_per_second']:.2f} images/s"
                progress.update(task, completed=step, status=status)
                if not progress.console.is_terminal:  # No bar is drawn into a file.
                    progress.console.print(f"step {step} of {config.num_steps}: {status}")
            if saving:
                checkpoints.save(state)  # All losses were found finite when the log was written.
            if stopping:
                checkpoints.wait()
                raise distributed.Preempted(f"saved after step {step}")
            if evaluating:
                evaluate()
        result = evaluate()
    if distributed.is_first():
        evaluation.write(workdir, result)
        gallery.write(Path(workdir) / "predictions.png", val_data, result.detections, train_data.categories)
        run_page.write(workdir, result, val_data, annotations)
    return result


def is_due(step: int, interval: int) -> bool:
    """Whether something that happens at regular steps does now; with an interval of 0 it never does."""
    return interval > 0 and step % interval == 0


def print_once(message: Any) -> None:
    """Prints in the first process only."""
    if distributed.is_first():
        print(message)


def progress_bar() -> Progress:
    """Steps done, time left, and the latest loss and rate."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(quiet=not distributed.is_first()),
    )


def main(arguments: list[str]) -> None:
    """Reads the flags; a mistake of the user's ends in one message and exit code 2."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every thread it starts.
    cache.keep_compiled_programs()
    try:
        if arguments[1:]:
            advice = "fields of the config are set by --config.FIELD=VALUE"
            raise ValueError(f"{arguments[1]!r} is no option: {advice}")
        if DISTRIBUTED.value or COORDINATOR.value:
            distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        outputs.make_directory(Path(WORKDIR.value), "--workdir")
        result = train(CONFIG.value, WORKDIR.value)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        _leave(_refuse(error))
    except distributed.Preempted as reason:
        print_once(f"SIGTERM: {reason}; the same command goes on from there")
        sys.exit(distributed.EXIT_PREEMPTED)
    except jax.errors.JaxRuntimeError as error:
        if memory.ran_out(error):
            _leave(_refuse(error))
        if jax.process_count() == 1:
            raise
        print(f"train.py: process {jax.process_index()} lost the others: {error}", file=sys.stderr)
        _leave(distributed.EXIT_LOST)
    print_once(evaluation.headline(result))
    print_once(f"curves, numbers and pictures in {WORKDIR.value}/report.html")


def _leave(code: int) -> None:
    """Exits; of several processes, without waiting for the others, who hear of it by the loss of the connection."""
    sys.stderr.flush()
    sys.stdout.flush()
    if distributed.started() and jax.process_count() > 1:
        os._exit(code)
    sys.exit(code)


def parse(arguments: list[str]) -> list[str]:
    """Reads the command line and runs the config file; a mistake in either ends like any other."""
    try:
        remaining = flags.FLAGS(arguments)
        if isinstance(CONFIG.value, Config):
            config_check.check(CONFIG.value)
            return remaining
        error: Exception = ValueError("get_config must return a Config")
    except Exception as raised:  # Anything can happen in a file of the user's.
        error = raised
    sys.exit(_refuse(_explain(error, arguments)))


def _explain(error: Exception, arguments: list[str]) -> Exception:
    """What is wrong with the config file, if it is that, in better words than those of the flags."""
    path = next((Path(a.partition("=")[2]) for a in arguments if a.lstrip("-").startswith("config=")), None)
    try:
        if path is not None:
            config_file.read(path)
    except (OSError, ValueError) as reason:
        return reason
    return error


def _refuse(error: Exception) -> int:
    message = error.args[0] if isinstance(error, KeyError) else error  # A KeyError quotes its message.
    if memory.ran_out(error):
        message = memory.explain(error)
    print(f"train.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
