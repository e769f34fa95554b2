"""Records a training step of Detectron2 and of MMDetection with small models.

    DETECTRON2=CHECKOUT python -m tests.golden.write_family_training

Writes an ``.npz`` for each library beside this file. Needs torch, torchvision, and what
`tests/parity/test_training_families.py` names.
"""

import importlib
from collections.abc import Callable, Sequence

import numpy as np

from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.parity import reference
from tests.golden import family_training, small
from tests.parity import mmcv_operators, training_peers
from tests.parity.training_peers import PeerStep

RATIOS = 3


def main() -> None:
    """Writes the recordings."""
    mmcv_operators.stand_in(reference.torch.ops.torchvision)
    steps = {
        "detectron2": training_peers.detectron2_step,
        "mmdetection": training_peers.mmdetection_step,
    }
    for library, take_step in steps.items():
        # Importing one of them loads the library.
        parity = importlib.import_module(f"maskrcnn_jax.parity.{library}")
        config, examples = family_training.config(library), family_training.examples()
        variables = family_training.variables(library)
        sides = {"short_side": family_training.SIZES[0][0], "max_long_side": 1333}
        step = take_step(parity.peer(config, variables, **sides).model, examples)
        path = small.FOLDER / f"{library}-training.npz"
        np.savez_compressed(path, **arrays(step, examples))
        print(path.name, path.stat().st_size, step.losses)


def arrays(step: PeerStep, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """The arrays of a recording, see `family_training.Recording`."""
    found = {f"losses/{name}": np.float64(loss) for name, loss in step.losses.items()}
    for name, images in (("anchors", step.anchors), ("rois", step.rois)):
        for i, drawn in enumerate(images):
            values = drawn.labels.astype(np.int8), *(x.astype(np.int32) for x in drawn[1:])
            found |= {
                f"{name}/{i}/{field}": value
                for field, value in zip(drawn._fields, values, strict=True)
            }
    found |= {f"proposals/{i}": boxes for i, boxes in enumerate(step.proposals)}
    found["mask_targets"] = np.packbits(step.mask_targets.astype(bool), axis=-1)
    for name, outputs in (("outputs", step.outputs), ("gradients", step.output_gradients)):
        selected = at_draws(step, outputs, true_classes(step))
        found |= {f"{name}/{key}": value for key, value in selected.items()}
    return found


def true_classes(step: PeerStep) -> np.ndarray:
    """The class, from 0, whose mask logits have a gradient, of each positive RoI."""
    gradient = step.output_gradients["mask logits"]
    return np.abs(gradient).sum((2, 3)).argmax(axis=1)


def at_draws(
    step: PeerStep, outputs: dict[str, np.ndarray], classes: np.ndarray
) -> dict[str, np.ndarray]:
    """Outputs at the drawn candidates, with the classes in our order."""
    logits = _of_anchors(step, outputs, "rpn logits", lambda x: x[..., 0])
    deltas = _of_anchors(step, outputs, "rpn deltas", lambda x: x)
    num_rois = len(outputs["class logits"])
    class_deltas = outputs["class deltas"].reshape(num_rois, -1, 4)
    background = np.zeros((num_rois, 1, 4), np.float32)
    return {
        "logits": logits,
        "deltas": deltas,
        "class_logits": np.roll(outputs["class logits"], 1, axis=1),
        "class_deltas": np.concatenate([background, class_deltas], axis=1),
        "mask_logits": outputs["mask logits"][np.arange(len(classes)), classes],
    }


def _of_anchors(
    step: PeerStep,
    outputs: dict[str, np.ndarray],
    name: str,
    shape: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The outputs of the RPN at the drawn anchors of all images."""
    levels = [outputs[f"{name}/{level}"] for level in range(5)]
    found = []
    for i, drawn in enumerate(step.anchors):
        # [a * d, h, w] to [h * w * a, d].
        flat = [x[i].transpose(1, 2, 0).reshape(x[i][0].size * RATIOS, -1) for x in levels]
        values = np.concatenate(flat)
        found.append(shape(values[np.concatenate([drawn.positive, drawn.negative])]))
    return np.concatenate(found)


if __name__ == "__main__":
    main()
