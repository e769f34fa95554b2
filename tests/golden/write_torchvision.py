"""Records torchvision's results with small models: stages of inference, and a training step.

    python -m tests.golden.write_torchvision

Writes an ``.npz`` for each variant beside this file. Needs torch and torchvision. The weights are
not recorded, since they follow from a seed, see `small` and `maskrcnn_jax.parity.recipe`.
"""

import numpy as np

from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.parity import recipe, reference, training_reference
from tests.golden import small

# The recorded gradients. Each variant has some of these parameters.
GRADIENTS = (
    "backbone.body.layer4.0.conv1.weight",
    "backbone.body.layer4.1.bn2.weight",
    "backbone.fpn.inner_blocks.2.0.weight",
    "rpn.head.conv.0.0.weight",
    "roi_heads.box_head.fc6.weight",
    "roi_heads.box_head.0.0.weight",
    "roi_heads.box_head.3.1.bias",
    "roi_heads.mask_head.0.0.weight",
    "roi_heads.mask_predictor.conv5_mask.weight",
)


def main() -> None:
    for variant in small.VARIANTS:
        np.savez_compressed(small.FOLDER / f"{variant}.npz", **record(small.config(variant)))


def record(config: Config) -> dict[str, np.ndarray]:
    """All arrays of one variant."""
    state, examples = recipe.state_dict(config.model), small.examples()
    sides = {"short_side": small.SHORT_SIDE, "max_long_side": small.MAX_LONG_SIDE}
    model = reference.build(config, state, **sides)
    weights = np.concatenate([np.ravel(array) for array in state.values()])
    arrays = {"weights": small.sample(weights)}
    for i, stages in enumerate(reference.predict(model, [example.image for example in examples])):
        for name, array in small.inference_arrays(stages).items():
            arrays[f"{name}/{i}"] = array if name in small.WHOLE else small.sample(array)
    return arrays | training_arrays(model, config)


def training_arrays(
    model: training_reference.torch.nn.Module, config: Config
) -> dict[str, np.ndarray]:
    """The samples, the losses, some gradients and the running statistics of a step."""
    optimizer = OptimizerConfig(learning_rate=0.0)
    (step,) = training_reference.steps(model, [small.examples()], optimizer)
    arrays = {
        f"{name}/{i}": array.astype(np.uint16) if array.dtype == np.int64 else array
        for name in ("positive_anchors", "negative_anchors", "rois", "roi_classes", "roi_instances")
        for i, array in enumerate(getattr(step, name))
    }
    arrays |= {f"mask_targets/{i}": small.sample(x) for i, x in enumerate(step.mask_targets)}
    arrays |= {f"losses/{name}": np.float32(loss) for name, loss in step.losses.items()}
    gradients = {name: step.gradients[name] for name in GRADIENTS if name in step.gradients}
    arrays |= {f"gradients/{name}": small.sample(x) for name, x in gradients.items()}
    if config.model.backbone.norm == "batch":
        state = training_reference.state_dict(model)
        for kind in ("running_mean", "running_var"):
            arrays[f"statistics/{kind}"] = small.statistics(state, kind)
    return arrays


if __name__ == "__main__":
    main()
