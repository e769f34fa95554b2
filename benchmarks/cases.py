"""The rows of the benchmark, and the speed that each must reach relative to torchvision."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from benchmarks import drawing, evaluation, inputs, models, operators, start
from benchmarks.contender import Run
from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.parity import recipe
from maskrcnn_jax.planning import flops

# The function that prepares a contender, and the arguments of this function.
Program = tuple[Callable[..., Run], tuple[Any, ...]]


class Case(NamedTuple):
    """A row of the table."""

    name: str
    ours: Program
    theirs: Program
    compare: Callable[[Any, Any], str]  # (torchvision's result, ours); raises ValueError.
    must: float  # The least passing ratio of torchvision's time to ours.
    aim: float
    # The least operations and bytes of the task. The slower of the two bounds the speed.
    operations: float = 0
    traffic: float = 0
    also: Program | None = None  # torchvision's channels-last layout.
    max_memory: float | None = None  # The largest ratio of our peak memory to torchvision's.
    rounds: int = 7


def all_cases() -> list[Case]:
    """All rows in the order of the table."""
    return [*_models(), *_roi_align(), *_nms(), *_paste(), *_programs()]


def _models() -> list[Case]:
    return [
        _detector("detector, one 480x640 image", inputs.ONE, 1.2),
        _detector("detector, four images of different sizes", inputs.FOUR, None),
        _training_step(1, 1.2),
        _training_step(2, None),
    ]


def _detector(name: str, sizes: tuple[inputs.Size, ...], max_memory: float | None) -> Case:
    return Case(
        name,
        (models.detector, (sizes,)),
        (models.torchvision_detector, (sizes,)),
        models.compare_detections,
        must=1.3,
        aim=1.6,
        operations=sum(_operations(size).forward for size in sizes),
        also=(models.torchvision_detector, (sizes, True)),
        max_memory=max_memory,
        rounds=5,
    )


def _training_step(batch_size: int, max_memory: float | None) -> Case:
    operations = _step_operations().training
    return Case(
        f"training step, 800x1088, batch {batch_size}",
        (models.training_step, (batch_size,)),
        (models.torchvision_training_step, (batch_size,)),
        models.compare_losses,
        must=1.0,
        aim=1.3,
        operations=batch_size * operations,
        also=(models.torchvision_training_step, (batch_size, True)),
        max_memory=max_memory,
        rounds=5,
    )


@cache
def _step_operations() -> flops.Flops:
    """The operations of a training step for one image."""
    return flops.total(recipe.config("v1"), inputs.TRAINING)


@cache
def _operations(size: inputs.Size) -> flops.Flops:
    """The operations for one image on the canvas of both sides."""
    data = DataConfig()
    resized = resizing.resized_size(size, data.test_short_side, data.test_max_long_side)
    return flops.total(recipe.config("v1"), resizing.ceil32(resized))


def _roi_align() -> list[Case]:
    height, width = inputs.TRAINING
    cells = sum(-(-height // 2**level) * -(-width // 2**level) for level in range(2, 6))
    cases = []
    for kind, sampling_ratio, backward, counts, must, aim in [
        ("RoIAlign forward", 2, False, (1000, 100), 5, 10),
        ("RoIAlign forward, adaptive", 0, False, (1000, 100), 3, 6),
        ("RoIAlign backward", 2, True, (512, 128), 2, 3),
    ]:
        for count, resolution in zip(counts, (7, 14), strict=True):
            arguments = (count, resolution, sampling_ratio, backward)
            cases.append(
                Case(
                    f"{kind}, {count} RoIs {resolution}x{resolution}",
                    (operators.roi_align, arguments),
                    (operators.torchvision_roi_align, arguments),
                    operators.compare_arrays(1e-4),
                    must,
                    aim,
                    traffic=4 * operators.CHANNELS * (cells + count * resolution**2),
                )
            )
    return cases


def _nms() -> list[Case]:
    compare, per_pair = operators.compare_indices, 14  # An IoU takes 14 operations.
    cases = [
        Case(
            f"NMS, 5 levels of {count} boxes",
            (operators.proposals_nms, (count,)),
            (operators.torchvision_proposals_nms, (count,)),
            compare,
            2,
            4,
            5 * per_pair * count * (count - 1) / 2,
        )
        for count in (1000, 2000)
    ]
    arguments = (5000, 80)
    programs = (operators.class_nms, arguments), (operators.torchvision_class_nms, arguments)
    operations = per_pair * 5000**2 / 2 / 80
    return [*cases, Case("NMS, 5000 boxes of 80 classes", *programs, compare, 1, 2, operations)]


def _paste() -> list[Case]:
    return [
        Case(
            f"100 masks pasted into {size[0]}x{size[1]}",
            (operators.paste, (size,)),
            (operators.torchvision_paste, (size,)),
            operators.compare_arrays(1e-4),
            5,
            10,
            traffic=4 * 100 * size[0] * size[1],
            rounds=5,
        )
        for size in ((480, 640), (2000, 3000))
    ]


def _programs() -> list[Case]:
    return [
        Case(
            "100 detections drawn into 800x1066",
            (drawing.ours, ()),
            (drawing.torchvision, ()),
            drawing.compare,
            1,
            1.5,
            # Reads the masks and the image, and writes the image.
            traffic=drawing.SIZE[0] * drawing.SIZE[1] * (4 * 100 + 2 * 3),
        ),
        Case(
            "COCO evaluation, 5000 images of 100 detections",
            (evaluation.ours, ()),
            (evaluation.pycocotools, ()),
            evaluation.compare,
            2,
            4,
            rounds=3,
        ),
        Case(
            "predict one image, from process start to file",
            (start.ours, ()),
            (start.torchvision, ()),
            start.compare,
            1,
            1.5,
            _operations(inputs.ONE[0]).forward,
            rounds=5,
        ),
    ]
