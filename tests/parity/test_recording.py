"""Brings the outputs of Detectron2 and MMDetection to our form, with arrays for tensors."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.parity import recording


class Tensor(np.ndarray):
    """An array with the one method of tensors that is used here."""

    def numpy(self):
        return np.asarray(self)


def tensor(values):
    return np.array(values, np.float32).view(Tensor)


class Module:
    """A module of PyTorch that gives its input back."""

    def __init__(self):
        self.hooks = []

    def register_forward_hook(self, hook):
        self.hooks.append(hook)
        return self

    def remove(self):
        self.hooks.clear()

    def __call__(self, x):
        for hook in self.hooks:
            hook(self, (x,), x)
        return x


def test_outputs_are_recorded_until_the_end():
    modules = {"plain": Module(), "changed": Module()}
    with recording.recorded(modules, {"changed": list.copy}) as outputs:
        for module in modules.values():
            module([1]).append(2)
    assert outputs == {"plain": [1, 2], "changed": [1]}
    assert not any(module.hooks for module in modules.values())


def test_background_comes_first():
    logits, deltas = recording.background_first(
        np.array([[1, 2, 9]], np.float32), np.arange(8, dtype=np.float32).reshape(1, 8)
    )
    np.testing.assert_array_equal(logits, [[9, 1, 2]])
    np.testing.assert_array_equal(deltas, [[[0, 0, 0, 0], [0, 1, 2, 3], [4, 5, 6, 7]]])


@pytest.mark.parametrize("num_masks, expected", [(3, [2, 3]), (1, [0, 1])])
def test_masks_are_those_of_the_class_or_of_all_classes(num_masks, expected):
    logits = np.arange(2 * num_masks, dtype=np.float32).reshape(2, 1, 1, num_masks)
    found = recording.of_class(logits, np.array([2, 0]))
    np.testing.assert_array_equal(found, np.float32(expected).reshape(2, 1, 1))


def paste_one(mask, box, height, width):
    return mask[0], (slice(1, 3), slice(0, 2))


def test_pasted_masks_must_be_the_final_ones():
    mask, boxes = tensor([[[0.2, 0.5], [0.7, 0.4]]]), tensor([[0, 1, 2, 3]])
    inside = np.zeros((1, 4, 3), bool)
    inside[0, 1, 1] = inside[0, 2, 0] = True
    pasted = recording.paste(paste_one, mask, boxes, inside)
    np.testing.assert_array_equal(pasted > 0.5, inside)
    np.testing.assert_allclose(pasted[0, 1:3, :2], mask[0], rtol=1e-6)
    inside[0, 3, 2] = True
    with pytest.raises(ValueError, match="do not follow"):
        recording.paste(paste_one, mask, boxes, inside)


def test_other_rules_are_listed():
    config = presets.mmdet_r50_fpn()
    config.model.mask_head = None
    rules = {"model.mask_head.norm_eps": 1e-5, "model.limit_shrinking": True}
    recording.check_rules(config, rules, "MMDetection")
    rules |= {"data.resize": "pillow", "model.rpn.anchor_stride": "canvas"}
    message = "Detectron2 has no model with data.resize='opencv', only 'pillow'; model.rpn.anchor"
    with pytest.raises(ValueError, match=message):
        recording.check_rules(config, rules, "Detectron2")
