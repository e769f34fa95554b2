"""Every number an experiment may change, as nested dataclasses; `model_config` has the network's.

A file in ``configs/`` sets what it needs, and the command line sets the rest
(``--config.model.rpn.nms_threshold=0.6``).
"""

from dataclasses import field
from typing import Annotated, NamedTuple

from maskrcnn_jax.model_config import FRACTION_BELOW_1, SHARE, ModelConfig
from maskrcnn_jax.settings import NOT_EMPTY, Constraint, above, at_least, between, one_of, settings

SIDE = Constraint("pairs of multiples of 32", lambda x: x >= 32 and x % 32 == 0)


@settings
class DetectionConfig:
    """Settings that only detection reads; they may change at any time."""

    num_candidates: Annotated[int, at_least(1)] = 1000  # As in `RPNConfig`.
    num_proposals: Annotated[int, at_least(1)] = 1000  # As in `RPNConfig`.
    score_threshold: Annotated[float, between(0, 1)] = 0.05  # Detections score above this.
    # Suppresses the worse of two detections of a class whose IoU is larger.
    nms_threshold: Annotated[float, between(0, 1)] = 0.5
    num_detections: Annotated[int, at_least(1)] = 100  # Slots per image.
    min_box_size: Annotated[float, at_least(0)] = 1e-2  # Pixels; smaller detections are dropped.
    # After scaling to the original image, clip boxes to it and drop those without an area, as
    # Detectron2 does.
    clip_to_original: bool = False
    # How masks are drawn into the image. "expanded": torchvision's rule, boxes of whole pixels and
    # probabilities above 0.5. "centres": the rule of Detectron2 and MMDetection, the value at each
    # pixel's centre, at least 0.5.
    paste: Annotated[str, one_of("expanded", "centres")] = "expanded"


@settings
class ExecutionConfig:
    """How the network is computed. No field changes a result beyond rounding.

    The one exception: batch norms take the statistics of each micro-batch.
    `execution.choose` resolves "auto" to what suits the devices.
    """

    num_devices: Annotated[int | None, at_least(1)] = None  # Devices to use; None for all.
    # Devices that share the rows of each image. Heights of buckets must be multiples of 32 times
    # this number.
    space: Annotated[int, at_least(1)] = 1
    num_microbatches: Annotated[int, at_least(1)] = 1  # Parts of a batch, one after the other.
    rematerialise: bool = False  # Rematerialise the blocks of the backbone, to save memory.
    deterministic: bool = False  # The same bits in every run on a GPU too; slower there.
    align_form: Annotated[str, one_of("auto", "gather", "einsum")] = "auto"  # Of RoIAlign.
    # The gradient of the RPN flows through "windows" around the sampled anchors, or whole "maps";
    # always through maps where devices share the rows of an image.
    rpn_gradient: Annotated[str, one_of("windows", "maps")] = "windows"


class TrainSet(NamedTuple):
    """One of several training sets."""

    images: str  # Folder, or a directory written by `maskrcnn-jax data prepare`.
    annotations: str = ""  # JSON in COCO's format; empty for prepared images.
    weight: float = 1.0  # The set's share of the training images, over the sum of all weights.


WEIGHTED = Constraint(
    "sets (images, annotations, weight) with weights above 0",
    lambda x: isinstance(x, str) or x > 0,
)


@settings
class DataConfig:
    """The source of the images, and how they are resized, augmented and padded."""

    # "coco": json files in COCO's format. "tfds": files written by `maskrcnn-jax data prepare`.
    # "shapes": synthetic images, made on the fly.
    source: Annotated[str, one_of("coco", "tfds", "shapes")] = "coco"
    train_images: str = "data/coco/train2017"  # Folder.
    train_annotations: str = "data/coco/annotations/instances_train2017.json"  # File.
    val_images: str = "data/coco/val2017"  # Folder.
    val_annotations: str = "data/coco/annotations/instances_val2017.json"  # File.
    tfds_dir: str = "data/tfds"  # Directory written by `data prepare`.
    # Several training sets, as `TrainSet`, instead of train_images and train_annotations. Their
    # categories are joined by name.
    train: Annotated[tuple[tuple[str, str, float], ...], WEIGHTED] = ()
    # How often training sees an image. "uniform": all equally often. "repeat_factor": images with
    # rare classes more often, as for LVIS. "class_balanced": as if each draw took a class first.
    # Evaluation is not affected.
    sampling: Annotated[str, one_of("uniform", "repeat_factor", "class_balanced")] = "uniform"
    # The share of images with a class below which "repeat_factor" repeats these images.
    repeat_threshold: Annotated[float, between(0, 1)] = 0.001
    keep_empty: bool = False  # Train on images without objects too.
    # The objects that keep an image for training. "torchvision": those with both sides above one
    # pixel. "any": all but crowds, as in Detectron2 and MMDetection.
    keep_rule: Annotated[str, one_of("torchvision", "any")] = "torchvision"
    min_side: Annotated[int, at_least(0)] = 0  # Smaller images, in pixels, are not trained on.
    # Annotations with iscrowd 1: "ignore", or "objects", for tools that mark all masks so.
    crowd: Annotated[str, one_of("ignore", "objects")] = "ignore"
    # The type of all pixels on their way to the network. "uint8": 16 bits are rounded to 8, and
    # floating-point pixels have to lie in [0, 1]. "float32": all bits are kept, at four times the
    # memory; floating-point pixels may have any range.
    image_dtype: Annotated[str, one_of("uint8", "float32")] = "uint8"
    # The channels to draw as red, green and blue, from 0, or one channel to draw as grey. Empty:
    # the first three, or the only one.
    shown_channels: Annotated[tuple[int, ...], at_least(0)] = ()
    strict: bool = False  # Stop at odd annotations and bad images, instead of leaving them out.
    # Training resizes the short side of each image to one of these, drawn at random, unless the
    # long side would exceed its maximum.
    short_sides: Annotated[tuple[int, ...], NOT_EMPTY, at_least(1)] = (800,)
    max_long_side: Annotated[int, at_least(1)] = 1333  # Pixels.
    # The network sees each image padded to multiples of so many pixels, inside its bucket. 1 is
    # Detectron2's rule for networks without a pyramid.
    padding: Annotated[int, one_of(1, 32)] = 32
    # The rule for the size of resized images; see `resizing.resized_size`.
    size_rule: Annotated[str, one_of("torchvision", "detectron2", "mmdetection")] = "torchvision"
    # How images are resized; see `resizing.resize`.
    resize: Annotated[str, one_of("bilinear", "pillow", "opencv")] = "bilinear"
    # Short side of each image in detection, unless the long side would exceed its maximum.
    test_short_side: Annotated[int, at_least(1)] = 800
    test_max_long_side: Annotated[int, at_least(1)] = 1333  # Pixels.
    # Height and width of padded images, multiples of 32.
    buckets: Annotated[tuple[tuple[int, int], ...], NOT_EMPTY, SIDE] = ((800, 1344), (1344, 800))
    # Height and width of padded images in detection.
    test_buckets: Annotated[tuple[tuple[int, int], ...], NOT_EMPTY, SIDE] = (
        (800, 1088),
        (800, 1216),
        (800, 1344),
        (1088, 800),
        (1216, 800),
        (1344, 800),
    )
    # Training crops larger images to a square of this side, at random, before resizing.
    crop_size: Annotated[int | None, at_least(1)] = None
    # Large-scale jitter (Ghiasi et al., 2021) instead of short_sides and crop_size: training scales
    # each image to fit a square, times a random factor between these two numbers, and then crops a
    # random part of the square's size, or fills up the square. Empty: no jitter.
    jitter: Annotated[tuple[float, ...], above(0)] = ()
    jitter_side: Annotated[int, at_least(1)] = 1024  # Pixels; a bucket must hold the square.
    # Sizes and offsets that are no whole pixels: "detectron2" rounds them, "torchvision" truncates.
    jitter_rule: Annotated[str, one_of("detectron2", "torchvision")] = "detectron2"
    # Fills up the square: one number, or one for each channel, where 1 is the largest value of the
    # pixels. Detectron2 takes this grey, torchvision the mean of the pixels.
    jitter_fill: Annotated[tuple[float, ...], NOT_EMPTY, at_least(0)] = (128 / 255,)
    # Transforms after resizing, in this order; `data/transforms.py` describes them. A random crop
    # takes a part of each side between these two fractions, with the centre of a random object.
    # Empty: no crop.
    crop_fraction: Annotated[tuple[float, ...], above(0), between(0, 1)] = ()
    horizontal_flip: Annotated[float, between(0, 1)] = 0.5  # Probability.
    vertical_flip: Annotated[float, between(0, 1)] = 0.0  # Probability.
    # Probability of a turn by 90, 180 or 270 degrees, for images without up and down. It needs
    # square buckets, or jitter.
    quarter_turn: Annotated[float, between(0, 1)] = 0.0
    # Probability that objects of another training image, drawn at random, are pasted over an image
    # (Ghiasi et al., 2021). They have no effect without masks.
    copy_paste: Annotated[float, between(0, 1)] = 0.0
    # Probability of each change of colours below. 0.5 is torchvision's RandomPhotometricDistort.
    distortion: Annotated[float, between(0, 1)] = 0.0
    # The factor of the brightness lies between these two numbers.
    brightness: Annotated[tuple[float, ...], at_least(0)] = (0.875, 1.125)
    contrast: Annotated[tuple[float, ...], at_least(0)] = (0.5, 1.5)  # The same for the contrast.
    # The same for the saturation. Images without three channels have none, and no hue.
    saturation: Annotated[tuple[float, ...], at_least(0)] = (0.5, 1.5)
    # The hue moves by a part of the circle of hues between these two numbers.
    hue: Annotated[tuple[float, ...], between(-0.5, 0.5)] = (-0.05, 0.05)
    # Ground-truth slots per image; objects beyond them are counted and reported.
    max_instances: Annotated[int, at_least(1)] = 100
    # Storage of ground-truth masks. "crop": each resampled to its own box. "full": bitmaps of the
    # whole image, for torchvision's exact mask targets at a hundred times the memory.
    mask_store: Annotated[str, one_of("crop", "full")] = "crop"
    mask_size: Annotated[int, at_least(1)] = 112  # Side of a cropped mask.
    num_threads: Annotated[int, at_least(1)] = 4  # Threads that read and prepare images.
    # Largest side of the synthetic images, in pixels.
    shapes_image_size: Annotated[int, at_least(32)] = 128
    shapes_num_train: Annotated[int, at_least(1)] = 2000  # Number of synthetic images.
    shapes_num_val: Annotated[int, at_least(1)] = 100  # Number of synthetic images.


@settings
class OptimizerConfig:
    """SGD with momentum, as in all reference detectors, or AdamW: fewer steps from scratch."""

    name: Annotated[str, one_of("sgd", "adamw")] = "sgd"  # SGD with momentum, or AdamW.
    learning_rate: Annotated[float, at_least(0)] = 0.02  # For 16 images; scaled with the batch.
    momentum: Annotated[float, FRACTION_BELOW_1] = 0.9  # Of SGD, and AdamW's b1.
    # This share of a parameter joins its gradient; decoupled in AdamW.
    weight_decay: Annotated[float, at_least(0)] = 1e-4
    # The parameters that decay. "all": everything that trains, as in torchvision and
    # MMDetection. "not_norms": all but scale and bias of norms, as in Detectron2. "kernels": no
    # biases either.
    decay: Annotated[str, one_of("all", "not_norms", "kernels")] = "all"
    # The rate of each stage of the backbone is this share of that of the next; 1 for equal rates.
    # The stages of a ViT are its blocks.
    layer_decay: Annotated[float, SHARE] = 1.0
    warmup_steps: Annotated[int, at_least(0)] = 1000  # In which the rate grows linearly.
    # The rate starts at this fraction.
    warmup_factor: Annotated[float, between(0, 1)] = 1e-3
    # After the warm-up: "steps", or "cosine", which falls to zero at the last step.
    schedule: Annotated[str, one_of("steps", "cosine")] = "steps"
    # The rate is multiplied by decay_factor at each of these steps.
    decay_steps: Annotated[tuple[int, ...], at_least(0)] = (60_000, 80_000)
    decay_factor: Annotated[float, at_least(0)] = 0.1  # Of the rate, at each of decay_steps.
    # Gradients with a larger global norm are scaled down to it.
    max_gradient_norm: Annotated[float | None, above(0)] = None
    # Decay of a moving average of the parameters, such as 0.9998; evaluation uses the average.
    average_decay: Annotated[float | None, between(0, 1)] = None


@settings
class Config:
    """A whole experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    weights: str | None = None  # Path or "COCO_V1": pretrained weights of the whole detector.
    # Start the layers with an output for each class anew: the labels of ``weights`` mean something
    # else.
    fresh_heads: bool = False
    # Path, "IMAGENET1K_V1" or "IMAGENET1K_V2": pretrained weights of the backbone alone.
    backbone_weights: str | None = None
    seed: Annotated[int, at_least(0)] = 0  # Of random weights, samples and views of images.
    batch_size: Annotated[int, at_least(1)] = 16  # Images per step, over all devices.
    test_batch_size: Annotated[int, at_least(1)] = 8  # Images per batch in evaluation.
    num_steps: Annotated[int, at_least(0)] = 90_000  # Of the training.
    log_every: Annotated[int, at_least(0)] = 20  # Steps.
    evaluate_every: Annotated[int, at_least(0)] = 5_000  # Steps; 0 evaluates at the end only.
    # Steps between checkpoints; 0 adds none to those of evaluations.
    save_every: Annotated[int, at_least(0)] = 5_000
    keep_checkpoints: Annotated[int, at_least(1)] = 3  # Number of newest checkpoints kept.
    keep_best: Annotated[int, at_least(0)] = 1  # Number kept with the best AP.
