"""Single stages as programs: shapes, gradients, and what they refuse. Nothing is compiled."""

import jax
import jax.numpy as jnp
import pytest

from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.model import MaskRCNN, example_inputs
from maskrcnn_jax.planning import stages
from tests.planning.test_plan import BUCKET, tiny_config

GRADIENTS = {
    # Stage: the module and the inputs that get a gradient.
    "backbone": ("backbone", ()),
    "fpn": ("fpn", ("features",)),
    "rpn": ("rpn", ("pyramid",)),
    "roi_align": ("", ("pyramid",)),
    "box_head": ("box_head", ("pooled",)),
    "mask_head": ("mask_head", ("pooled_for_masks",)),
}


@pytest.fixture(scope="module")
def setting():
    """A tiny model, the shapes of its variables and of a batch of two images."""
    config = tiny_config()
    model = MaskRCNN(config.model, config.detection)
    variables = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(config.model))
    return model, variables, batch_shapes(config, BUCKET, 2)


def results(setting, program, name):
    function, arguments = stages.trace(*setting, program, name)
    return jax.eval_shape(function, *arguments), arguments


@pytest.mark.parametrize("name", stages.STAGES["train"])
def test_stages_of_training_have_their_gradients(name, setting):
    found, arguments = results(setting, "train", name)
    stage = stages.STAGES["train"][name]
    if name not in GRADIENTS:
        assert len(found) == len(stage.results) and not stage.module and not stage.learned
        return
    assert (stage.module, stage.learned) == GRADIENTS[name]
    primal, (of_params, of_inputs) = found
    variables, inputs, cotangents = arguments
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(primal) == shapes(cotangents)
    assert set(of_params) == ({stage.module} if stage.module else set())
    for module, gradients in of_params.items():
        assert shapes(gradients) == shapes(variables["params"][module])
    learned = [inputs[stage.inputs.index(key)] for key in stage.learned]
    assert shapes(of_inputs) == shapes(learned)


@pytest.mark.parametrize("name", stages.STAGES["detect"])
def test_stages_of_detection_have_none(name, setting):
    found, _ = results(setting, "detect", name)
    assert len(found) == len(stages.STAGES["detect"][name].results)


def test_the_shapes_between_the_stages_are_those_of_the_model(setting):
    model = setting[0]
    (pooled, for_masks), _ = results(setting, "train", "roi_align")[0]
    assert pooled.shape == (2, model.config.roi.num_samples, 7, 7, 16)
    assert for_masks.shape == (2, model.num_mask_samples, 14, 14, 16)
    pooled, for_masks = results(setting, "detect", "roi_align")[0]
    assert pooled.shape == (2, model.detection.num_proposals, 7, 7, 16)
    assert for_masks.shape == (2, model.detection.num_detections, 14, 14, 16)


def test_a_gradient_is_that_of_the_stage():
    """The gradient of a sum: with cotangents of one, against `jax.grad`."""
    stage = stages.Stage(None, ("x", "y"), ("z",), "dense", ("y",))

    def apply(variables, x, y):
        return (variables["params"]["dense"]["kernel"] * x * y**2,)

    kernel, x, y = jnp.array(3.0), jnp.array(5.0), jnp.array(7.0)
    variables = {"params": {"dense": {"kernel": kernel}, "other": {"kernel": kernel}}}
    with_gradient = stages._with_gradient(apply, stage, variables, [x, y], (jnp.array(1.0),))
    (result,), (of_params, of_inputs) = with_gradient
    assert result == 3 * 5 * 49 and of_params == {"dense": {"kernel": 5 * 49}}
    assert of_inputs == [2 * 3 * 5 * 7]


@pytest.mark.parametrize("program, name", [("detect", "anchor_targets"), ("train", "neck")])
def test_a_stage_that_a_program_lacks(program, name, setting):
    with pytest.raises(ValueError, match=f"--stage {name}: the stages of {program} are .*fpn"):
        stages.trace(*setting, program, name)


def test_a_model_without_masks_has_no_stages_for_them(setting):
    config = tiny_config()
    config.model.mask_head = None
    model = MaskRCNN(config.model, config.detection)
    variables = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(config.model))
    setting = model, variables, batch_shapes(config, BUCKET, 2, masks=False)
    with pytest.raises(ValueError, match="--stage mask_head"):
        stages.trace(*setting, "train", "mask_head")
    assert results(setting, "detect", "roi_align")[0][1] is None
