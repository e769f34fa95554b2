"""A training run before its first step: its data, its directory and its initial variables."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from maskrcnn_jax import distributed, training
from maskrcnn_jax.cli import in_use, outputs, progress
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import checks, sampling
from maskrcnn_jax.data.annotations import without_images
from maskrcnn_jax.data.dataset import Dataset
from maskrcnn_jax.data.schedule import check_sizes
from maskrcnn_jax.data.sources import check_categories, open_train, open_val
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.runs import left_out, run_directory
from maskrcnn_jax.variables import example_inputs
from maskrcnn_jax.weights import backbones, loading


class Start(NamedTuple):
    """A run before its first step: its data, and the initial variables of the model."""

    config: Config
    train_data: Dataset
    val_data: Dataset
    annotations: dict[str, Any]  # The ground truth of `val_data` in COCO's format.
    variables: dict[str, Any]

    @property
    def has_masks(self) -> bool:
        """Whether the model has a mask head."""
        return self.config.model.mask_head is not None


def prepare(config: Config, workdir: str | Path) -> Start:
    """Opens the data, writes the run directory, and makes or loads the variables of the model.

    Images that cannot be used are left out; the run directory lists them.

    Raises:
        OSError, ValueError: Data, weights or the run directory do not fit the config.
    """
    detector = None
    if config.weights:
        with distributed.first_goes_first("weights"):  # Only the first process downloads.
            weights = os.path.expanduser(config.weights)
            detector = loading.load(weights, config.model, seed=config.seed)
    if detector is not None:
        print_once(detector.report)
        config = dataclasses.replace(config, model=detector.config.model)
    categories = None
    if detector is not None and config.fresh_heads:
        detector = detector._replace(variables=_with_fresh_heads(detector.variables, config))
    elif detector is not None:
        categories = detector.categories
    has_masks = config.model.mask_head is not None
    needs = {"masks": has_masks, "num_channels": len(config.model.image_mean)}
    train_data = open_train(config.data, categories, **needs)
    known_by = "the training set"
    val_data, annotations = open_val(config.data, train_data.categories, known_by=known_by, **needs)
    check_categories(config.model, train_data.categories)
    if val_data.categories != train_data.categories:
        print_once("val: its category ids differ from those of the training set; names decide")
    config = _with_frequencies(config, train_data)
    bad = left_out.find(workdir, config.data, train_data, val_data, progress.images)
    train_data = checks.without(train_data, bad["train"])
    val_data = checks.without(val_data, bad["val"])
    check_sizes(train_data, val_data, config.data)
    with distributed.first_goes_first("run directory"):
        run_directory.write_run(workdir, config, train_data.categories)
        if distributed.is_first():
            left_out.write(workdir, config.data, bad)
    for name, reasons in bad.items():
        if reasons:
            listed = Path(workdir) / left_out.NAME
            reason = checks.summary(reasons)
            print_once(f"{name}: left out {len(reasons)} images, see {listed}: {reason}")
    annotations = without_images(annotations, bad["val"])

    # Each source of variables replaces those before it in this order: random weights, a backbone,
    # a detector, the last checkpoint of this run.
    if detector is not None:
        return Start(config, train_data, val_data, annotations, detector.variables)
    variables = training.init_variables(MaskRCNN(config.model), config.seed)
    if config.backbone_weights is not None:
        with distributed.first_goes_first("backbone"):
            weights = os.path.expanduser(config.backbone_weights)
            variables = backbones.load(weights, variables, config.model, print_once)
    return Start(config, train_data, val_data, annotations, variables)


def _with_frequencies(config: Config, train_data: Dataset) -> Config:
    """The config with the frequencies of the classes, if the loss draws by them."""
    model, head = config.model, config.model.box_head
    if head.federated_classes is None or head.class_frequencies:
        return config
    counted = sampling.class_frequencies(train_data.labels, model.num_classes)
    head = dataclasses.replace(head, class_frequencies=counted)
    return dataclasses.replace(config, model=dataclasses.replace(model, box_head=head))


def _with_fresh_heads(variables: dict[str, Any], config: Config) -> dict[str, Any]:
    """The variables with random ones in the layers that have an output for each class."""
    larger = dataclasses.replace(config.model, num_classes=config.model.num_classes + 1)
    inputs = jax.random.key(0), *example_inputs(config.model)
    shapes = jax.eval_shape(MaskRCNN(larger).init, *inputs)["params"]
    initial = training.init_variables(MaskRCNN(config.model), config.seed)["params"]

    def choose(loaded: Any, fresh: Any, shape: Any) -> Any:
        return loaded if loaded.shape == shape.shape else fresh

    return variables | {"params": jax.tree.map(choose, variables["params"], initial, shapes)}


def print_once(message: Any) -> None:
    """Prints in the first process only."""
    if distributed.is_first():
        print(message)


@contextlib.contextmanager
def claim_results(workdir: Path, force: bool) -> Iterator[Callable[[], None]]:
    """Claims a run directory, and the results that a run writes there at its end.

    The results are listed in `outputs.json`. The evaluation counts as an output of `maskrcnn-jax
    evaluate`, which may repeat it. Yields a function to call just before the results are written.

    Raises ValueError if another command works in the directory, or if a result exists that no run
    has written, unless ``force`` is True.
    """
    if not distributed.is_first():
        yield lambda: None
        return
    evaluated = [workdir / name for name in ("evaluation.json", "detections.json")]
    shown = [workdir / name for name in ("predictions.png", "report.html")]
    with (
        in_use.hold(workdir),
        outputs.claim("maskrcnn-jax evaluate", evaluated, force=force) as add_evaluated,
        outputs.claim("maskrcnn-jax train", shown, force=force) as add_shown,
    ):

        def announce() -> None:
            add_evaluated(*evaluated)
            add_shown(*shown)

        yield announce
