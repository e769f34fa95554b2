"""The report on loaded weights: their source, the model, and the choices that were made."""

from dataclasses import dataclass, field

from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig, ResNetConfig, ViTConfig
from maskrcnn_jax.weights import convnext, torchvision, vit
from maskrcnn_jax.weights.norm_eps import NormEps

NORM_WORDS = {
    "frozen_batch": "frozen batch norm",
    "fixed_batch": "batch norm with fixed statistics",
    "batch": "batch norm",
    "group": "group norm",
    "layer": "layer norm",
}
RULES = {"detectron2": "Detectron2", "mmdetection": "MMDetection"}


@dataclass(frozen=True)
class Report:
    """The result of loading weights; ``str(report)`` is a few lines of text."""

    source: str  # Path of the file or run directory.
    digest: str | None  # sha256 of the file in hexadecimal digits.
    architecture: str
    norm_eps: dict[str, NormEps]  # By the name of each part that has norms.
    num_arrays: int  # Number of arrays loaded from the source.
    renamed: dict[str, str] = field(default_factory=dict)  # Present names by old names.
    reinitialised: tuple[str, ...] = ()  # Names, as in the source, of arrays drawn at random.
    num_classes_found: int = 0  # Number of classes of the source, including background.
    reasons: tuple[str, ...] = ()  # What the source does not say: what was taken for it, and why.

    def __str__(self) -> str:
        digest = f" (sha256 {self.digest[:8]}...)" if self.digest else ""
        lines = [
            f"weights: {self.source}{digest}",
            f"model: {self.architecture}",
            *self._norm_lines(),
            *self.reasons,
            f"loaded: {self.num_arrays} arrays",
        ]
        if self.renamed:
            old, new = next(iter(self.renamed.items()))
            lines.append(f"old names: {len(self.renamed)}, such as {old}, which is now {new}")
        if self.reinitialised:
            lines.append(
                "re-initialised at random, because the weights are for "
                f"{self.num_classes_found} classes: " + ", ".join(self.reinitialised)
            )
        return "\n".join(lines)

    def _norm_lines(self) -> list[str]:
        """Returns one line for all parts, or one line for each part if they differ."""
        if len(set(self.norm_eps.values())) == 1:
            ((eps, reason),) = set(self.norm_eps.values())
            return [f"eps of the norms: {eps:g}, {reason}"]
        return [
            f"eps of the norms of {name}: {eps:g}, {reason}"
            for name, (eps, reason) in self.norm_eps.items()
        ]


def describe(config: ModelConfig) -> str:
    """Describes a network in one line."""
    rule = config.roi.level_rule
    name = torchvision.function_of(config) if rule == "torchvision" else None
    if name is None:
        kind = "Faster R-CNN" if config.mask_head is None else "Mask R-CNN"
        if config.cascade is not None:
            kind = "Cascade R-CNN" if config.mask_head is None else "Cascade Mask R-CNN"
        has_convs = config.box_head.num_convs > 0
        heads = "maskrcnn_resnet50_fpn_v2" if has_convs else "the paper"
        is_dilated = getattr(config.backbone, "c5_dilation", 1) > 1
        only = "DC5" if is_dilated else f"C{config.levels[-1]}"
        neck = "FPN" if config.fpn is not None else only
        name = f"{kind} with {describe_backbone(config.backbone)}-{neck} and the heads of {heads}"
    norm = getattr(config.backbone, "norm", "layer")
    count = len(config.image_mean)
    channels = "" if count == 3 else f", {count} channel{'s' * (count > 1)}"
    rules = "" if rule == "torchvision" else f", rules of {RULES[rule]}"
    return f"{name}, {NORM_WORDS[norm]}, {config.num_classes} classes{channels}{rules}"


def describe_backbone(config: ResNetConfig | ConvNeXtConfig | ViTConfig) -> str:
    """Names a backbone, such as ``ResNet-50``, ``ResNeXt-101-32x8d`` or ``ViT-B``."""
    if isinstance(config, ViTConfig):
        return vit.describe(config)
    if isinstance(config, ConvNeXtConfig):
        return convnext.architecture(config)
    if (config.groups, config.width_per_group) == (1, 64):
        return f"ResNet-{config.depth}"
    kind = "ResNeXt" if config.groups > 1 else "ResNet"
    return f"{kind}-{config.depth}-{config.groups}x{config.width_per_group}d"
