"""Converts the small network of `test_onnx.py` to ONNX with jax2onnx, and runs it in onnxruntime.

It runs in an environment of its own: `docs/deploy.md` says how to make it. The last line that it
prints is JSON: how far it came, and the largest differences of the outputs for each image.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

SIZE = (128, 192)
OUTPUTS = ("boxes", "classes", "scores", "masks", "valid")


def main() -> None:
    """Converts, runs, compares and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="the .onnx file to write")
    parser.add_argument("--as-is", action="store_true", help="without `use_plain_forms`")
    args = parser.parse_args()
    if not args.as_is:
        use_plain_forms()
    function = detector()
    examples = list(inputs())
    came_to = {"step": "trace", "differences": []}
    try:
        closed = jax.make_jaxpr(function)(*examples[0])
        came_to["step"] = "convert"
        convert(closed, examples[0], Path(args.output))
        came_to["step"] = "run"
        came_to["differences"] = compare(function, examples, args.output)
        came_to["step"] = "done"
    except Exception as error:  # The packages raise errors of many kinds.
        came_to["error"] = f"{type(error).__name__}: {str(error)[:500]}"
    print(json.dumps(came_to))


def use_plain_forms() -> None:
    """Replaces choices by platform and rules for batches, of which jax2onnx knows none."""

    class WithoutRule:
        def __init__(self, function: Callable[..., Any]) -> None:
            self.function = function

        def __call__(self, *arguments: Any) -> Any:
            return self.function(*arguments)

        def def_vmap(self, rule: Any) -> Any:
            return rule

    def default_form(*arguments: Any, default: Callable[..., Any], **_: Any) -> Any:
        return default(*arguments)

    jax.lax.platform_dependent = default_form
    jax.custom_batching.custom_vmap = WithoutRule


def detector() -> Callable[..., tuple[Any, ...]]:
    """A small network of the usual kind with random weights, as a function of its inputs."""
    # Imported after `use_plain_forms`, whose functions they take at their import.
    from maskrcnn_jax import execution, presets
    from maskrcnn_jax.config import DetectionConfig
    from maskrcnn_jax.model import MaskRCNN
    from maskrcnn_jax.variables import example_inputs

    config = presets.maskrcnn_resnet50_fpn(num_classes=4)
    config.backbone.depth, config.backbone.stem_channels = 18, 4
    config.fpn.channels, config.box_head.features, config.mask_head.channels = 8, 16, 12
    slots = {"num_candidates": 20, "num_proposals": 20, "num_detections": 10}
    model = MaskRCNN(config, DetectionConfig(score_threshold=0.0, **slots), execution.Execution())
    rng = np.random.default_rng(0)

    def fill(path: Any, x: Any) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return np.ones(x.shape, np.float32)
        deviation = 0.1 if path[-1].key == "bias" else (2 / np.prod(x.shape[:-1])) ** 0.5
        return (deviation * rng.normal(size=x.shape)).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(config))
    variables = jax.tree_util.tree_map_with_path(fill, shapes)

    def detect(images: Any, sizes: Any, canvas: Any, threshold: Any) -> tuple[Any, ...]:
        found = model.apply(variables, images, sizes, canvas, threshold)
        return tuple(getattr(found, name) for name in OUTPUTS)

    return detect


def inputs() -> Any:
    """Yields the inputs for five images, of which the first is black."""
    rng = np.random.default_rng(1)
    height, width = SIZE
    for i in range(5):
        image = rng.random((1, height, width, 3), np.float32) * np.float32(i > 0)
        image[:, :, width - 10 * i :] = 0
        sizes, canvas = (np.array([[height, w]], np.int32) for w in (width - 10 * i, width))
        yield image, sizes, canvas, np.float32(0.05)


def convert(closed: Any, example: Any, output: Path) -> None:
    """Writes the file. jax2onnx would replace functions of flax while it traces: trace before."""
    import jax2onnx

    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in example]
    flat = jax.extend.core.jaxpr_as_fun(closed)
    jax2onnx.to_onnx(
        lambda *arguments: tuple(flat(*arguments)),
        shapes,
        return_mode="file",
        output_path=str(output),
    )


def compare(function: Any, examples: Any, path: str) -> list[dict[str, float]]:
    """The largest difference of each output, for each image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    compiled, found = jax.jit(function), []
    for example in examples:
        expected = jax.device_get(compiled(*example))
        outputs = session.run(None, dict(zip(names, example, strict=True)))
        differences = {}
        for name, a, b in zip(OUTPUTS, expected, outputs, strict=True):
            differences[name] = float(np.abs(np.float64(a) - np.float64(b)).max())
        found.append(differences)
    return found


if __name__ == "__main__":
    main()
