"""Records the stages of inference of Detectron2 and MMDetection with small models.

    DETECTRON2=CHECKOUT python -m tests.golden.write_families

Writes an ``.npz`` for each model beside this file. Needs torch, torchvision, Detectron2 and
MMDetection; see ``tests/parity/test_live_families.py``. The weights are not recorded, since they
follow from a seed, see `small` and `maskrcnn_jax.parity.recipe`.
"""

import importlib

import numpy as np

from maskrcnn_jax.parity import recipe, reference
from tests.golden import small
from tests.parity import mmcv_operators


def main() -> None:
    mmcv_operators.stand_in(reference.torch.ops.torchvision)
    for name in small.FAMILIES:
        np.savez_compressed(small.FOLDER / f"{name}.npz", **record(name))


def record(name: str) -> dict[str, np.ndarray]:
    """All arrays of one model, for the first of the small images."""
    module = "mmdetection" if name.startswith("mmdet") else "detectron2"
    program = importlib.import_module(f"maskrcnn_jax.parity.{module}")
    config = small.family_config(name)
    variables = recipe.variables(config.model)
    sides = {"short_side": small.FAMILY_SHORT_SIDE, "max_long_side": small.MAX_LONG_SIDE}
    peer = program.peer(config, variables, **sides)
    (stages,) = peer.predict([small.examples()[0].image])
    arrays = {"weights": small.sample(small.flat(variables))}
    for key, array in small.inference_arrays(stages).items():
        arrays[key] = array if key in small.FAMILY_WHOLE else small.sample(array)
    outcome = stages.outcome
    arrays |= {"size": np.array(outcome.size), "original_boxes": outcome.original_boxes}
    return arrays | {"masks": np.packbits(outcome.masks > 0.5)}


if __name__ == "__main__":
    main()
