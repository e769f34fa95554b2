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
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from maskrcnn_jax import evaluation, gallery, sharding, training
from maskrcnn_jax.checkpoints import Checkpoints, write_run
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pipeline import eval_batches, train_batches
from maskrcnn_jax.data.sources import check_categories, open_train, open_val
from maskrcnn_jax.metrics import MetricsLog
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.weights import backbones, loading

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment; change a field by --config.model.depth=101.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, evaluation.")


def train(config: Config, workdir: str | Path) -> evaluation.Evaluation:
    """Takes the steps of an experiment that are still to be taken, and returns the last evaluation."""
    detector = loading.load(config.weights, config.model, seed=config.seed) if config.weights else None
    if detector is not None:
        print(detector.report)
        config = dataclasses.replace(config, model=detector.config.model)
    categories = detector.categories if detector is not None else None
    train_data = open_train(config.data, categories)
    val_data, annotations = open_val(config.data, categories)
    check_categories(config.model, train_data.categories, val_data.categories)
    write_run(workdir, config, train_data.categories)

    # Where the numbers come from, the later winning: chance, a backbone, a detector, the last checkpoint of this run.
    model = MaskRCNN(config.model)
    if detector is not None:
        variables = detector.variables
    else:
        variables = training.init_variables(model, config.seed)
        if config.model.backbone_weights is not None:
            variables = backbones.load(config.model.backbone_weights, variables, config.model)
    optimizer = training.make_optimizer(config, variables["params"])
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    state = training.create_state(variables, optimizer, average=config.optimizer.average_decay is not None)
    state = checkpoints.restore(state) or state
    start = int(state.step)

    mesh = sharding.make_mesh(config.num_devices, config.batch_size)
    state = sharding.replicate(state, mesh)
    sharded_model = MaskRCNN(config.model, sharding.per_image(mesh))
    train_step = training.compile_step(sharded_model, optimizer, config)
    key = jax.random.key(config.seed)
    learning_rate = training.learning_rate(config.optimizer, config.batch_size, config.num_steps)
    batches = train_batches(train_data, config.data, batch_size=config.batch_size, seed=config.seed, start_step=start)

    def evaluate() -> evaluation.Evaluation:
        task = progress.add_task("evaluate", total=len(val_data), status="")
        result = evaluation.evaluate(
            model,
            state.variables,
            eval_batches(val_data, config.data, batch_size=config.test_batch_size),
            annotations,
            train_data.categories,
            config,
            advance=lambda num_images: progress.advance(task, num_images),
        )
        progress.remove_task(task)
        log.write(int(state.step), {"bbox": result.bbox, "segm": result.segm, "validation": result.losses})
        progress.console.print(f"step {state.step}: {evaluation.headline(result)}")
        return result

    with (
        contextlib.closing(MetricsLog(Path(workdir) / "metrics.jsonl", start)) as log,
        contextlib.closing(checkpoints),
        contextlib.closing(batches),
        progress_bar() as progress,
    ):
        task = progress.add_task("train", total=config.num_steps, completed=start, status="compiling")
        for step in range(start + 1, config.num_steps + 1):
            state, metrics = train_step(state, sharding.spread(next(batches), mesh), key)
            log.add(step, metrics)
            last = step == config.num_steps
            if last or step % config.log_every == 0:
                means = log.flush(step, config.batch_size, learning_rate=float(learning_rate(step - 1)))
                status = f"loss {means['loss']:.3f}, {means['images_per_second']:.2f} images/s"
                progress.update(task, completed=step, status=status)
                if not progress.console.is_terminal:  # No bar is drawn into a file.
                    progress.console.print(f"step {step} of {config.num_steps}: {status}")
            if last or step % config.save_every == 0:
                log.settle()  # A state that is not finite must not be saved.
                checkpoints.save(state)
            if not last and config.evaluate_every and step % config.evaluate_every == 0:
                evaluate()
        result = evaluate()
    evaluation.write(workdir, result)
    gallery.write(Path(workdir) / "predictions.png", val_data, result.detections, train_data.categories)
    return result


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
    )


def main(_: list[str]) -> None:
    """Reads the flags; a mistake of the user's ends in one message and exit code 2."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every thread it starts.
    try:
        result = train(CONFIG.value, WORKDIR.value)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(_refuse(error))
    print(evaluation.headline(result))
    print(f"numbers in {WORKDIR.value}/evaluation.json, pictures in {WORKDIR.value}/predictions.png")


def parse(arguments: list[str]) -> list[str]:
    """Reads the command line; a config or field that does not exist ends like any other mistake."""
    try:
        return app.parse_flags_with_usage(arguments)
    except (KeyError, OSError) as error:
        sys.exit(_refuse(error))


def _refuse(error: Exception) -> int:
    message = error.args[0] if isinstance(error, KeyError) else error  # A KeyError quotes its message.
    print(f"train.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
