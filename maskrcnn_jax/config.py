"""Every number an experiment may change, as nested dataclasses.

The defaults are the paper's R50-FPN on COCO with torchvision's constants. A file in ``configs/`` changes what it needs,
and the command line changes the rest (``--config.model.rpn.nms_threshold=0.6``). Settings can be assigned until they
are frozen; `MaskRCNN` freezes its own copy, because a module has to be hashable and must not change after it was
compiled.
"""

import copy
import dataclasses
import typing
from dataclasses import field
from typing import Any, TypeVar

T = TypeVar("T")


def _setattr(self: Any, name: str, value: Any) -> None:
    if name not in self.__dataclass_fields__:
        fields = ", ".join(self.__dataclass_fields__)
        raise AttributeError(f"{type(self).__name__} has no field {name!r}; its fields are {fields}")
    if self.__dict__.get("_frozen"):
        raise AttributeError(f"this {type(self).__name__} is frozen: set {name!r} before the model is built")
    self.__dict__[name] = value


def _hash(self: Any) -> int:
    if not self.__dict__.get("_frozen"):
        raise TypeError(f"a {type(self).__name__} can change, so it has no hash: pass it through config.freeze first")
    return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))


@typing.dataclass_transform(field_specifiers=(field,))
def settings(cls: type[T]) -> type[T]:
    """Makes a dataclass that refuses unknown fields and, once frozen, every assignment."""
    cls.__setattr__, cls.__hash__ = _setattr, _hash
    return dataclasses.dataclass(cls)


def freeze(config: T) -> T:
    """Returns a copy, nested settings included, that is hashable and refuses assignments."""
    frozen = copy.copy(config)
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            value = freeze(value)
        elif isinstance(value, list | tuple):
            value = _as_tuple(value)
        frozen.__dict__[name] = value
    frozen.__dict__["_frozen"] = True
    return frozen


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


@settings
class RPNConfig:
    """Region proposal network: its anchors, which of them to train on, which proposals to keep."""

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)  # Pixels; one for each of P2 to P6.
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # Height over width.
    positive_iou: float = 0.7  # Anchors at least this close to an object are positive.
    negative_iou: float = 0.3  # Anchors below this, to every object, are negative.
    num_samples: int = 256  # Anchors per image in the loss.
    positive_fraction: float = 0.5  # At most this share of the samples is positive.
    box_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # Scale of the targets dx, dy, dw, dh.
    smooth_l1_beta: float = 1 / 9  # Where the box loss turns from quadratic to linear.
    train_num_candidates: int = 2000  # Best-scored anchors per level that enter non-maximum suppression.
    train_num_proposals: int = 2000  # Proposals per image that leave it, over all levels.
    test_num_candidates: int = 1000
    test_num_proposals: int = 1000
    score_threshold: float = 0.0  # Proposals below this probability are dropped.
    nms_threshold: float = 0.7  # Of two boxes with a larger overlap, the better one stays.
    min_box_size: float = 1e-3  # Pixels; narrower or lower proposals are dropped.
    # How its gradient is computed, with the same result: through "windows" around the sampled anchors, through whole
    # "maps", or "auto" for what suits the device: windows on CPUs.
    gradient_form: str = "auto"


@settings
class RoIConfig:
    """Regions of interest: which proposals to train the heads on, and how features are pooled from them."""

    positive_iou: float = 0.5  # Proposals at least this close to an object are positive, all others background.
    num_samples: int = 512  # RoIs per image in the loss.
    positive_fraction: float = 0.25  # At most this share of the samples is positive.
    max_mask_samples: int | None = None  # At most this many of the positives train the mask head; None for all.
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)  # Scale of the targets dx, dy, dw, dh.
    smooth_l1_beta: float = 1 / 9
    box_resolution: int = 7  # Side of the features pooled for the box head.
    mask_resolution: int = 14  # The same for the mask head; its masks have twice this side.
    # "align" (RoIAlign: means of bilinear samples), or "pool" (RoIPool: maxima of whole cells, to compare with).
    pooling: str = "align"
    sampling_ratio: int = 2  # RoIAlign averages this many samples per axis in each bin.
    aligned: bool = False  # True shifts RoIs by half a feature cell, as Detectron2 does.
    # How RoIAlign is computed, with the same result: "gather", "einsum", or "auto" for what suits the device.
    align_form: str = "auto"


@settings
class DetectionConfig:
    """From class scores to the final detections."""

    score_threshold: float = 0.05  # Detections must score above this.
    nms_threshold: float = 0.5  # Of two boxes of one class with a larger overlap, the better one stays.
    num_detections: int = 100  # Slots per image.
    min_box_size: float = 1e-2  # Pixels; narrower or lower detections are dropped.


@settings
class ModelConfig:
    """Mask R-CNN with a ResNet-FPN backbone."""

    num_classes: int = 81  # Background included: COCO's 80 categories as contiguous labels.
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # RGB in [0, 1].
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    depth: int = 50  # ResNet 18, 34, 50, 101 or 152.
    stem_channels: int = 64  # Width of the backbone: its stages have multiples of it.
    stride_in_1x1: bool = False  # Where a stage halves the resolution: its first 1x1 convolution, or the 3x3.
    norm: str = "frozen_batch"  # Of the backbone: "frozen_batch", "batch" or "group".
    norm_eps: float = 1e-5
    frozen_stages: int = 2  # Parts of the backbone that do not train: 0 none, 1 the stem, 2 also C2, ... 5 all.
    backbone_weights: str | None = None  # Path, "IMAGENET1K_V1" or "IMAGENET1K_V2": where the backbone starts from.
    fpn_channels: int = 256
    fpn_norm: str = "none"  # "none" (the convolutions have biases), or any norm of the backbone.
    rpn_head_convs: int = 1
    box_head_convs: int = 0  # 3x3 convolutions before the fully connected layers.
    box_head_channels: int = 256
    box_head_norm: str = "none"
    box_head_layers: int = 2  # Fully connected layers.
    box_head_features: int = 1024  # Their width.
    mask_head_channels: int = 256
    mask_head_convs: int = 4
    mask_head_norm: str = "none"
    dtype: str = "float32"  # Of the network's activations; "bfloat16" leaves boxes and losses in float32.
    rematerialise: bool = False  # Compute activations of the backbone's blocks again in the backward pass: less memory.
    deterministic: bool = False  # The same bits in every run on a GPU too, as on a CPU: slower.
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)


@settings
class DataConfig:
    """Where images come from, and how they are resized, varied and padded."""

    # "coco" (json files in COCO's format), "tfds" (what `maskrcnn-jax data prepare` made of them) or "shapes"
    # (synthetic, made on the fly).
    source: str = "coco"
    train_images: str = "data/coco/train2017"  # Folder.
    train_annotations: str = "data/coco/annotations/instances_train2017.json"
    val_images: str = "data/coco/val2017"
    val_annotations: str = "data/coco/annotations/instances_val2017.json"
    tfds_dir: str = "data/tfds"  # The directory that was prepared.
    keep_empty: bool = False  # Train on images without objects too.
    short_sides: tuple[int, ...] = (800,)  # Training resizes the short side to one of these, drawn for each image ...
    max_long_side: int = 1333  # ... unless the long side would grow beyond this.
    test_short_side: int = 800
    test_max_long_side: int = 1333
    buckets: tuple[tuple[int, int], ...] = ((800, 1344), (1344, 800))  # Padded (height, width), multiples of 32.
    test_buckets: tuple[tuple[int, int], ...] = (
        (800, 1088),
        (800, 1216),
        (800, 1344),
        (1088, 800),
        (1216, 800),
        (1344, 800),
    )
    horizontal_flip: float = 0.5  # Probability.
    vertical_flip: float = 0.0
    crop_size: int | None = None  # Training crops what is larger than this square, at random, before resizing.
    max_instances: int = 100  # Ground-truth slots per image; objects beyond them are counted and reported.
    # How ground-truth masks travel: "crop" (each resampled to its own box) or "full" (bitmaps of the whole image, for
    # torchvision's exact mask targets at a hundred times the memory).
    mask_store: str = "crop"
    mask_size: int = 112  # Side of a cropped mask; no multiple of 32, since that may be a side of a whole one.
    num_threads: int = 4  # Threads that read and prepare images.
    shapes_image_size: int = 128  # Of the synthetic set: largest side, pixels.
    shapes_num_train: int = 2000
    shapes_num_val: int = 100


@settings
class OptimizerConfig:
    """SGD with momentum, as all reference detectors train, or AdamW, which needs fewer steps from scratch."""

    name: str = "sgd"  # "sgd" or "adamw".
    learning_rate: float = 0.02  # For 16 images; scaled to the global batch.
    momentum: float = 0.9  # Of SGD; AdamW averages gradients with the same weight.
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True  # torchvision decays everything that trains.
    warmup_steps: int = 1000
    warmup_factor: float = 1e-3  # The rate starts at this fraction and grows linearly.
    schedule: str = "steps"  # After the warm-up: "steps", or "cosine", which falls to zero at the last step.
    decay_steps: tuple[int, ...] = (60_000, 80_000)  # The rate is multiplied by decay_factor at each of these.
    decay_factor: float = 0.1
    max_gradient_norm: float | None = None  # Gradients with a larger global norm are scaled down to it.
    average_decay: float | None = None  # Keep a moving average of the parameters (0.9998, say), and evaluate with it.


@settings
class Config:
    """A whole experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    weights: str | None = None  # Path or "COCO_V1": pretrained weights of the whole detector.
    seed: int = 0
    batch_size: int = 16  # Images per step, over all devices.
    num_devices: int | None = None  # Devices that share a batch; all by default.
    space: int = 1  # Devices that share each image, by its rows: heights of buckets must be multiples of 32 times this.
    num_microbatches: int = 1  # Parts the batch is worked through in, to save memory; the gradient is the same.
    num_steps: int = 90_000
    log_every: int = 20  # Steps.
    evaluate_every: int = 5_000  # Steps; 0 evaluates at the end only.
    save_every: int = 5_000
    keep_checkpoints: int = 3  # The newest so many ...
    keep_best: int = 1  # ... and as many of the best by mask AP, of those that were evaluated.
    test_batch_size: int = 8


def to_dict(config: Any) -> dict[str, Any]:
    """Settings as nested dictionaries of plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The inverse of `to_dict`; fields that are absent keep their defaults.

    Raises:
        ValueError: An unknown field, named with the settings it was found in, or no dictionary.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} must be an object with names and values, got {values!r}")
    config = cls()
    for name, value in values.items():
        if name not in cls.__dataclass_fields__:
            raise ValueError(f"{cls.__name__} has no field {name!r}")
        default = getattr(config, name)
        value = from_dict(type(default), value) if dataclasses.is_dataclass(default) else _as_tuple(value)
        setattr(config, name, value)
    return config


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Fields in which two settings of one type differ, each as ``name: value of a -> value of b``."""
    found = []
    for name in a.__dataclass_fields__:
        x, y = _as_tuple(getattr(a, name)), _as_tuple(getattr(b, name))
        if dataclasses.is_dataclass(x):
            found += differences(x, y, f"{prefix}{name}.")
        elif x != y:
            found.append(f"{prefix}{name}: {x} -> {y}")
    return found
