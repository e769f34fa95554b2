"""What is measured against torchvision, and by how much it has to be faster."""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import drawing, evaluation, models, operators, pictures, start
from benchmarks.contender import Run
from maskrcnn_jax import flops, images
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.parity import recipe

Program = tuple[Callable[..., Run], tuple[Any, ...]]  # What prepares a contender, and its arguments.


class Case(NamedTuple):
    """A row of the table."""

    name: str
    ours: Program
    theirs: Program
    compare: Callable[[Any, Any], str]  # Of their result and ours; raises ValueError.
    must: float  # Their time over ours, at least.
    aim: float
    operations: float = 0  # That the task needs, and
    traffic: float = 0  # bytes: whatever the machine would take longer for is its limit.
    also: Program | None = None  # torchvision's channels-last layout.
    max_memory: float | None = None  # Our peak memory over theirs, at most.
    rounds: int = 7


def all_cases() -> list[Case]:
    """Every row, in the order of the table."""
    return [*_models(), *_roi_align(), *_nms(), *_paste(), *_programs()]


def _models() -> list[Case]:
    cases = []
    for name, sizes, must, memory in [
        ("detector, one 480x640 image", pictures.ONE, 1.3, 1.2),
        ("detector, four images of different sizes", pictures.FOUR, 1.3, None),
    ]:
        programs = (models.detector, (sizes,)), (models.torchvision_detector, (sizes,))
        also = (models.torchvision_detector, (sizes, True))
        work = sum(_operations(size).forward for size in sizes)
        cases.append(
            Case(name, *programs, models.compare_detections, must, 1.6, work, also=also, max_memory=memory, rounds=5)
        )
    for batch_size in (1, 2):
        cases.append(
            Case(
                f"training step, 800x1088, batch {batch_size}",
                (models.training_step, (batch_size,)),
                (models.torchvision_training_step, (batch_size,)),
                models.compare_losses,
                1.0,
                1.3,
                batch_size * flops.total(recipe.config("v1"), pictures.TRAINING).training,
                also=(models.torchvision_training_step, (batch_size, True)),
                max_memory=1.2 if batch_size == 1 else None,
                rounds=5,
            )
        )
    return cases


def _operations(size: pictures.Size) -> flops.Flops:
    """Of a picture, on the canvas that both sides give it."""
    data = DataConfig()
    resized = images.resized_size(size, data.test_short_side, data.test_max_long_side)
    return flops.total(recipe.config("v1"), images.ceil32(resized))


def _roi_align() -> list[Case]:
    cells = sum(-(-pictures.TRAINING[0] // 2**level) * -(-pictures.TRAINING[1] // 2**level) for level in range(2, 6))
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
    compare, per_pair = operators.compare_indices, 14  # Operations of an IoU.
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
    return [*cases, Case("NMS, 5000 boxes of 80 classes", *programs, compare, 1, 2, per_pair * 5000**2 / 2 / 80)]


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
            traffic=drawing.SIZE[0] * drawing.SIZE[1] * (4 * 100 + 2 * 3),  # Masks, and the picture twice.
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
            "predict one picture, from process start to file",
            (start.ours, ()),
            (start.torchvision, ()),
            start.compare,
            1,
            1.5,
            _operations(pictures.ONE[0]).forward,
            rounds=5,
        ),
    ]
