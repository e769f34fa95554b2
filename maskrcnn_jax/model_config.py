"""The network and the rules of its training, as nested dataclasses, one for each part.

The defaults are the paper's R50-FPN on COCO with torchvision's constants. Settings can be assigned
until they are frozen; `MaskRCNN` freezes its own copy, because a module must be hashable and must
not change once it is compiled.
"""

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any

from maskrcnn_jax.settings import NOT_EMPTY, Constraint, above, at_least, between, one_of, settings

# "frozen_batch": the statistics, scale and bias of batch norm are constants. "fixed_batch": the
# statistics are, scale and bias train, as MMDetection does. "batch": all train.
Norm = Annotated[str, one_of("frozen_batch", "fixed_batch", "batch", "group")]
# As `Norm`; or "none"; or "layer": layer norm over the channels of each cell.
NormOrNone = Annotated[
    str, one_of("none", "frozen_batch", "fixed_batch", "batch", "group", "layer")
]
# Candidates with the largest overlap of all with some object, though it is below `positive_iou`.
# "none": no rule. "label": they are positive, and keep the object that they overlap most, as in
# torchvision and Detectron2. "assign": they are positive, and take that object, the last one if
# there are several, as in MMDetection.
LowQuality = Annotated[str, one_of("none", "label", "assign")]
# The loss of boxes: "smooth_l1" of their deltas, or "giou", one less the generalised overlap
# (Rezatofighi et al., 2019).
BoxLoss = Annotated[str, one_of("smooth_l1", "giou")]
# Limited because a config may come from a weight file of others: more layers take minutes to trace.
NumLayers = Annotated[int, between(0, 100)]
SHARE = Constraint("above 0 and at most 1", lambda x: 0 < x <= 1)
FEW = Constraint("at most 9", lambda x: len(x) <= 9, of_members=False)
FRACTION_BELOW_1 = Constraint("at least 0 and below 1", lambda x: 0 <= x < 1)
MULTIPLE_OF_32 = Constraint("a multiple of 32", lambda x: x >= 32 and x % 32 == 0)


@settings
class ResNetConfig:
    """The backbone (He et al., 2015)."""

    depth: Annotated[int, one_of(18, 34, 50, 101, 152)] = 50  # Number of layers.
    stem_channels: Annotated[int, at_least(1)] = 64  # The stages have multiples of this number.
    # Groups of the 3x3 convolutions of bottlenecks (Xie et al., 2017); ResNeXt 32x8d has 32.
    groups: Annotated[int, between(1, 2048)] = 1
    # The channels of a group in C2, for 64 stem channels; ResNeXt 32x8d has 8.
    width_per_group: Annotated[int, between(1, 2048)] = 64
    # True: a stage halves the resolution in its first 1x1 convolution. False: in the 3x3.
    stride_in_1x1: bool = False
    norm: Norm = "frozen_batch"
    norm_eps: Annotated[float, at_least(0)] = 1e-5  # Added to the variance.
    # Stages that do not train: 0 none, 1 the stem, 2 the stem and C2, up to 5 for all.
    frozen_stages: Annotated[int, between(0, 5)] = 2
    # The coarsest feature map, C5 or C4. In a C4 network the heads compute C5 of each RoI.
    last_level: Annotated[int, one_of(4, 5)] = 5
    # 2: C5 has the resolution of C4, as the 3x3 convolutions of its stage are dilated by two
    # instead (a DC5 network). It needs `ModelConfig.fpn` None.
    c5_dilation: Annotated[int, one_of(1, 2)] = 1

    @property
    def coarsest_level(self) -> int:
        """The level of the last map, which has the stride ``2**level``."""
        return self.last_level if self.c5_dilation == 1 else 4

    @property
    def width(self) -> int:
        """Channels of the 3x3 convolutions of C2's bottlenecks."""
        return self.stem_channels * self.groups * self.width_per_group // 64


@settings
class ConvNeXtConfig:
    """The backbone ConvNeXt (Liu et al., 2022). ConvNeXt-T by default."""

    depths: Annotated[tuple[int, int, int, int], between(1, 100)] = (3, 3, 9, 3)  # Blocks.
    width: Annotated[int, at_least(1)] = 96  # Channels of C2; doubled in each later stage.
    # In training the last block skips its branch with this probability, earlier blocks with less.
    drop_path: Annotated[float, FRACTION_BELOW_1] = 0.1
    # Stages that do not train: 0 none, 1 the stem, 2 the stem and C2, up to 5 for all.
    frozen_stages: Annotated[int, between(0, 5)] = 0


@settings
class ViTConfig:
    """The backbone of ViTDet (Li et al., 2022): a plain vision transformer. ViT-B by default."""

    # Images are padded to a square of this side, in pixels.
    image_side: Annotated[int, MULTIPLE_OF_32] = 1024
    width: Annotated[int, at_least(4)] = 768  # Channels of a token.
    depth: NumLayers = 12  # Number of blocks.
    num_heads: Annotated[int, at_least(1)] = 12
    window: Annotated[int, at_least(1)] = 14  # Side of the windows of most blocks, in tokens.
    # The blocks, counted from 0, that attend to the whole image.
    global_blocks: Annotated[tuple[int, ...], at_least(0)] = (2, 5, 8, 11)
    # In training the last block skips a branch with this probability, earlier blocks with less.
    drop_path: Annotated[float, FRACTION_BELOW_1] = 0.1
    # Stages that do not train: 0 none, 1 the embeddings, 2 the first block too, and so on.
    frozen_stages: Annotated[int, between(0, 101)] = 0


if TYPE_CHECKING:
    Backbone = Any  # Which fields there are depends on the kind, which no type checker knows.
else:
    Backbone = ResNetConfig | ConvNeXtConfig | ViTConfig


@settings
class FPNConfig:
    """The feature pyramid (Lin et al., 2017)."""

    # Add coarser levels to finer ones; without, it is ViTDet's simple feature pyramid.
    top_down: bool = True

    channels: Annotated[int, at_least(1)] = 256  # Of each level.
    norm: NormOrNone = "none"  # With "none" the convolutions have biases.
    norm_eps: Annotated[float, at_least(0)] = 1e-5  # Added to the variance.


@settings
class RPNConfig:
    """Region proposal network: anchors, samples for its loss, selection of proposals."""

    num_convs: NumLayers = 1
    # The size of the anchors of each level, P2 to P6, in pixels. Without a pyramid, the sizes of
    # the anchors of each cell of the only level.
    anchor_sizes: Annotated[tuple[float, ...], above(0)] = (32, 64, 128, 256, 512)
    # Round the corners of anchors to whole pixels, as torchvision does.
    round_anchors: bool = True
    # Distance of neighbouring anchors. "canvas": the whole number canvas // map, as in torchvision.
    # "level": 2**level, as in Detectron2 and MMDetection. They differ where the canvas is no
    # multiple of 64, on P6.
    anchor_stride: Annotated[str, one_of("canvas", "level")] = "canvas"
    # Height over width.
    aspect_ratios: Annotated[tuple[float, ...], NOT_EMPTY, above(0)] = (0.5, 1.0, 2.0)
    # Anchors with at least this overlap with an object are positive.
    positive_iou: Annotated[float, between(0, 1)] = 0.7
    # Anchors with less overlap with every object are negative.
    negative_iou: Annotated[float, between(0, 1)] = 0.3
    low_quality: LowQuality = "label"
    min_low_quality_iou: Annotated[float, between(0, 1)] = 0.0  # Less overlap does not count.
    num_samples: Annotated[int, at_least(1)] = 256  # Anchors per image in the loss.
    positive_fraction: Annotated[float, SHARE] = 0.5  # At most this share of them is positive.
    # Scale of the targets dx, dy, dw, dh.
    box_weights: Annotated[tuple[float, float, float, float], above(0)] = (1.0, 1.0, 1.0, 1.0)
    box_loss: BoxLoss = "smooth_l1"
    # The smooth L1 loss turns from quadratic to linear here; 0 is plain L1.
    smooth_l1_beta: Annotated[float, at_least(0)] = 1 / 9
    box_loss_weight: Annotated[float, above(0)] = 1.0  # Of the box loss, in the sum of all losses.
    # Both losses are divided by a number of anchors. "drawn": those sampled, as in torchvision.
    # "fixed": num_samples for each image, as in Detectron2. "mmdetection": positives and negatives,
    # at least one of each for each image.
    loss_divisor: Annotated[str, one_of("drawn", "fixed", "mmdetection")] = "drawn"
    # In training, the best-scored anchors per level that enter non-maximum suppression. See
    # `DetectionConfig` for detection.
    num_candidates: Annotated[int, at_least(1)] = 2000
    # In training, the proposals per image that leave it, over all levels.
    num_proposals: Annotated[int, at_least(1)] = 2000
    score_threshold: Annotated[float, between(0, 1)] = 0.0  # Less probable proposals are dropped.
    # Suppresses the worse of two proposals whose IoU is larger.
    nms_threshold: Annotated[float, between(0, 1)] = 0.7
    # Pixels; smaller proposals are dropped. With 0, only proposals without an area are.
    min_box_size: Annotated[float, at_least(0)] = 1e-3

    @property
    def anchors(self) -> dict[str, Any]:
        """The fields that determine the anchors: arguments of `ops.anchors.pyramid_anchors`."""
        return {
            "sizes": self.anchor_sizes,
            "aspect_ratios": self.aspect_ratios,
            "stride": self.anchor_stride,
            "rounded": self.round_anchors,
        }

    @property
    def regression(self) -> dict[str, Any]:
        """The fields of the box loss: arguments of `losses.rpn_loss`."""
        return _regression(self)


@settings
class RoIConfig:
    """Regions of interest: samples for the losses of the heads, and pooling of their features."""

    # Proposals with at least this overlap with an object are positive; all others are background.
    positive_iou: Annotated[float, between(0, 1)] = 0.5
    low_quality: LowQuality = "none"
    min_low_quality_iou: Annotated[float, between(0, 1)] = 0.0  # Less overlap does not count.
    # The objects are candidates too. "last": matched as all others, as in torchvision and
    # Detectron2. "first": each belongs to itself, and only the others are matched, as in
    # MMDetection.
    ground_truth: Annotated[str, one_of("last", "first")] = "last"
    num_samples: Annotated[int, at_least(1)] = 512  # RoIs per image in the loss.
    positive_fraction: Annotated[float, SHARE] = 0.25  # At most this share of them is positive.
    # Scale of the targets dx, dy, dw, dh.
    box_weights: Annotated[tuple[float, float, float, float], above(0)] = (10.0, 10.0, 5.0, 5.0)
    box_loss: BoxLoss = "smooth_l1"
    # The smooth L1 loss turns from quadratic to linear here; 0 is plain L1.
    smooth_l1_beta: Annotated[float, at_least(0)] = 1 / 9
    box_loss_weight: Annotated[float, above(0)] = 1.0  # Of the box loss, in the sum of all losses.
    # "align": RoIAlign, means of bilinear samples. "pool": RoIPool, maxima of whole cells.
    pooling: Annotated[str, one_of("align", "pool")] = "align"
    # RoIAlign averages this many samples per axis in each bin; 0 adapts to the size of the RoI.
    sampling_ratio: Annotated[int, between(0, 8)] = 2
    aligned: bool = False  # True shifts RoIs by half a feature cell, as Detectron2 does.
    # The rule for the pyramid level of an RoI. They differ for sides within 1e-4 pixels of 112, 224
    # and 448.
    level_rule: Annotated[str, one_of("torchvision", "detectron2", "mmdetection")] = "torchvision"
    # The targets of the mask head. "share": the share of each cell that the object covers, as in
    # torchvision. "detectron2": 1 where it covers at least half of a cell, else 0. "mmdetection":
    # the same, but masks go on, empty, in the padding: few cells at a border of the image differ.
    mask_targets: Annotated[str, one_of("share", "detectron2", "mmdetection")] = "share"

    @property
    def regression(self) -> dict[str, Any]:
        """The fields of the box loss: arguments of `losses.box_loss`."""
        return _regression(self)


def _regression(part: RPNConfig | RoIConfig) -> dict[str, Any]:
    return {
        "form": part.box_loss,
        "beta": part.smooth_l1_beta,
        "weight": part.box_loss_weight,
        "box_weights": part.box_weights,
    }


@settings
class BoxHeadConfig:
    """Class scores and box refinement: 3x3 convolutions, then fully connected layers."""

    # Instead of these layers, the last stage of the ResNet, whose features are averaged: a C4
    # network (appendix A of the ResNet paper). The mask head reads the same features.
    res5: bool = False
    resolution: Annotated[int, at_least(1)] = 7  # Side of the features pooled for each RoI.
    num_convs: NumLayers = 0
    channels: Annotated[int, at_least(1)] = 256  # Of the convolutions.
    norm: NormOrNone = "none"
    norm_eps: Annotated[float, at_least(0)] = 1e-5  # Added to the variance.
    num_layers: NumLayers = 2  # Fully connected layers.
    features: Annotated[int, at_least(1)] = 1024  # Of the fully connected layers.
    class_agnostic: bool = False  # One box for all classes, instead of one for each.
    # "softmax": the probabilities of all classes and background sum to 1. "sigmoid": each class has
    # a probability of its own, for long tails; the output of background is not used.
    classifier: Annotated[str, one_of("softmax", "sigmoid")] = "softmax"
    # Federated loss, for "sigmoid": the loss counts this many classes in each image, those of its
    # RoIs and others at random. None: all classes.
    federated_classes: Annotated[int | None, at_least(1)] = None
    # The others are drawn by the number of training images with a class, to this power.
    federated_power: Annotated[float, at_least(0)] = 0.5
    # These numbers, for label 1, 2, ...; empty: a run counts them in its training set.
    class_frequencies: Annotated[tuple[float, ...], at_least(0)] = ()


@settings
class MaskHeadConfig:
    """A mask for each RoI: 3x3 convolutions, upsampling by two, a 1x1 convolution."""

    # Side of the features pooled for each RoI; masks have twice this side. In a C4 network the side
    # of the features after the last stage, half of those pooled.
    resolution: Annotated[int, at_least(1)] = 14
    num_convs: NumLayers = 4
    channels: Annotated[int, at_least(1)] = 256  # Of the convolutions.
    norm: NormOrNone = "none"
    norm_eps: Annotated[float, at_least(0)] = 1e-5  # Added to the variance.
    # At most this many of the positive RoIs of an image train the head; None for all.
    max_samples: Annotated[int | None, at_least(1)] = None
    class_agnostic: bool = False  # One mask for all classes, instead of one for each.


@settings
class CascadeConfig:
    """Stages of the box head after the first (Cai and Vasconcelos, 2018).

    Each stage has a box head of its own, and refines the boxes of the stage before. `RoIConfig`
    holds the rules of the first stage.
    """

    # For each later stage: boxes with at least this overlap with an object are positive.
    positive_ious: Annotated[tuple[float, ...], NOT_EMPTY, FEW, between(0, 1)] = (0.6, 0.7)
    # For each later stage: scale of the targets dx, dy, dw, dh.
    box_weights: Annotated[tuple[tuple[float, float, float, float], ...], NOT_EMPTY, above(0)] = (
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    # The boxes that train a later stage. "all": those of the stage before, as in Detectron2.
    # "drawn": samples of them and of the objects, as in MMDetection.
    samples: Annotated[str, one_of("all", "drawn")] = "all"
    # The class scores of all stages are averaged: their "probabilities", as in Detectron2, or their
    # "logits", as in MMDetection.
    average: Annotated[str, one_of("probabilities", "logits")] = "probabilities"
    loss_weight: Annotated[float, above(0)] = 1.0  # Of a stage, relative to the stage before.
    # Factor of the gradient by the pooled features. None: one over the number of stages, as in
    # Detectron2, which is the mean over the stages.
    feature_gradient: Annotated[float | None, above(0)] = None
    # "one" mask head, which learns from the samples of the first stage, as in Detectron2, or one
    # for "each" stage, whose probabilities are averaged, as in MMDetection.
    mask_heads: Annotated[str, one_of("one", "each")] = "one"

    @property
    def num_stages(self) -> int:
        """The number of stages, the first included."""
        return 1 + len(self.positive_ious)


@settings
class ModelConfig:
    """The network and its training rules: everything a checkpoint depends on."""

    num_classes: Annotated[int, at_least(2)] = 81  # COCO's 80 categories and the background.
    # Mean per channel, of pixels whose white is 1: whole numbers are divided by 255 or 65535,
    # floating-point ones are not. Its length is the number of channels.
    image_mean: Annotated[tuple[float, ...], NOT_EMPTY] = (0.485, 0.456, 0.406)
    # Standard deviation per channel, of the same pixels.
    image_std: Annotated[tuple[float, ...], above(0)] = (0.229, 0.224, 0.225)
    dtype: Annotated[str, one_of("float32", "bfloat16")] = "float32"  # Of activations only.
    # Deltas make no box grow more than 62.5-fold. True: nor shrink, as in MMDetection.
    limit_shrinking: bool = False
    backbone: Backbone = field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = field(default_factory=FPNConfig)  # None: only the coarsest map.
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask_head: MaskHeadConfig | None = field(default_factory=MaskHeadConfig)  # None: Faster R-CNN.
    cascade: CascadeConfig | None = None  # None: a single stage.

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the pyramid, the finest first; the stride of a level is ``2**level``."""
        last = getattr(self.backbone, "coarsest_level", 5)  # Only a ResNet may end earlier.
        return (last,) if self.fpn is None else (2, 3, 4, 5, 6)

    @property
    def anchors_per_cell(self) -> int:
        """Anchors of each cell of a feature map."""
        sizes = len(self.rpn.anchor_sizes) if len(self.levels) == 1 else 1
        return sizes * len(self.rpn.aspect_ratios)
