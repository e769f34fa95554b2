"""Single stages as programs: shapes, gradients, and what they refuse. Nothing is compiled."""

import jax
import jax.numpy as jnp
import pytest

from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.modules import resnet
from maskrcnn_jax.planning import stages
from maskrcnn_jax.variables import example_inputs
from tests.planning.test_plan import BUCKET, ONE_BLOCK_PER_STAGE, tiny_config

GRADIENTS = {
    # Stage: the module and the inputs that get a gradient.
    "backbone": ("backbone", ()),
    "fpn": ("fpn", ("features",)),
    "rpn": ("rpn", ("pyramid",)),
    "roi_align": ("", ("pyramid",)),
    "box_head": ("box_head", ("pooled",)),
    "mask_head": ("mask_head", ("pooled_for_masks",)),
}
WITHOUT_GRADIENT = {"anchor_targets", "proposals", "roi_targets", "mask_targets"}


@pytest.fixture(scope="module")
def setting():
    """A tiny model, the shapes of its variables and of a batch of two images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.DEPTHS, 18, ONE_BLOCK_PER_STAGE)  # Halves the time of each trace.
        config = tiny_config()
        model = MaskRCNN(config.model, config.detection)
        variables = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(config.model))
        yield model, variables, batch_shapes(config, BUCKET, 2)


def results(setting, program, name):
    function, arguments = stages.trace(*setting, program, name)
    return jax.eval_shape(function, *arguments), arguments


def test_the_stages_of_training_are_known():
    assert set(GRADIENTS) | WITHOUT_GRADIENT == set(stages.STAGES["train"])


# The others are traced on the way: `proposals` and `roi_targets` for `roi_align`.
@pytest.mark.parametrize("name", [*GRADIENTS, "mask_targets"])
def test_stages_of_training_have_their_gradients(name, setting):
    found, arguments = results(setting, "train", name)
    stage = stages.STAGES["train"][name]
    if name in WITHOUT_GRADIENT:
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
    if name == "roi_align":
        assert [x.shape[:3] for x in primal] == [(2, 16, 7), (2, 4, 14)]  # A quarter for masks.


def test_stages_of_detection_have_no_gradient(setting):
    (found,), _ = results(setting, "detect", "detections")
    assert found.boxes.shape == (2, setting[0].detection.num_detections, 4)


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
    model = MaskRCNN(config.model)
    with pytest.raises(ValueError, match="the stages of train are [^m]*$"):
        stages.trace(model, *setting[1:], "train", "mask_head")
    found, _ = results((model, *setting[1:]), "train", "box_head")
    assert found[0][0].shape == (2, config.model.roi.num_samples, 4)
