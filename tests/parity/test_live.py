"""Compares our detections with torchvision's live, on the same random weights, for each stage.

Needs torch, torchvision and photographs. ``maskrcnn-jax parity`` prints the same comparison.
"""

import json
import os

import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")
if not os.environ.get("MASKRCNN_JAX_SHARED"):
    reason = "MASKRCNN_JAX_SHARED does not name the folder with the photographs"
    pytest.skip(reason, allow_module_level=True)

from maskrcnn_jax import images  # noqa: E402
from maskrcnn_jax.config import Config  # noqa: E402
from maskrcnn_jax.parity import comparison, recipe, reference, report  # noqa: E402
from maskrcnn_jax.parity.jax_model import JaxModel  # noqa: E402
from maskrcnn_jax.weights import files, torchvision  # noqa: E402


@pytest.fixture(scope="module")
def photographs(shared):
    """Paths of COCO's landscape images with objects, by file name, and their sizes."""
    root = shared / "data" / "coco_subset"
    annotations = json.loads((root / "instances_val.json").read_text())
    occupied = {annotation["image_id"] for annotation in annotations["annotations"]}
    records = [record for record in annotations["images"] if record["id"] in occupied]
    sizes = {record["file_name"]: (record["height"], record["width"]) for record in records}
    return {root / "val" / name: size for name, size in sorted(sizes.items()) if size[0] < size[1]}


def of_size(photographs, height, width):
    return [path for path, size in photographs.items() if size == (height, width)]


def comparer(variant, short_side, max_long_side, file=None):
    """Both models with the same weights; torchvision loads them from our file if one is given."""
    config = Config(model=recipe.config(variant))
    state = recipe.state_dict(config.model)
    sizes = {"short_side": short_side, "max_long_side": max_long_side}
    ours = JaxModel(config, torchvision.from_state_dict(state, config.model), **sizes)
    if file:
        files.write(file, torchvision.to_state_dict(ours.variables, config.model))
        loaded = reference.torch.load(file, weights_only=True)
        state = {name: x.numpy() for name, x in loaded.items()}
    model = reference.build(config, state, **sizes)
    return comparison.Comparer(reference.as_peer(model), ours)


def check(result, least=90):
    print(report.to_markdown(result))
    found = result.comparisons[0]
    assert found.num_theirs >= least * found.num_images
    assert result.passed


def check_alone(subject, title, **wanted):
    stages = list(subject.stages.values())
    check(report.Report(title, "torchvision", stages, [subject.alone], {}), **wanted)


def test_three_photographs_at_full_size_in_one_bucket(photographs):
    """Compares all stages, and the detections of each photograph alone."""
    subject = comparer("v1", 800, 1333)
    for path in of_size(photographs, 480, 640)[:3]:
        subject.add(path.name, images.read_image(path))
    assert subject.alone.num_images == 3
    assert subject.num_compiled() == 3  # The whole model, the maps and the heads.
    check_alone(subject, "v1 at 800")


def test_batch_norm_in_other_buckets_and_batches(photographs):
    """Tries a larger bucket, a batch with another photograph, and the canvas of that batch."""
    sizes = (449, 640), (425, 640)  # One bucket, two canvases.
    paths = [of_size(photographs, *size)[0] for size in sizes]
    subject = comparer("v1-batch-norm", 320, 533)
    title = "v1-batch-norm at 320"
    result = comparison.run(subject, paths, title=title, advance=lambda count: None)
    assert [found.num_images for found in result.comparisons] == [2, 2, 2, 2]
    assert subject.num_compiled() == 5
    check(result)


def test_v2_from_a_file_of_ours_and_that_other_weights_fall_short(photographs, tmp_path):
    """A change of half a per cent in the mask head shows in its stage, and in none before."""
    path = of_size(photographs, 480, 640)[0]
    subject = comparer("v2", 320, 533, tmp_path / "v2.pth")
    subject.add(path.name, images.read_image(path))
    check_alone(subject, "v2 at 320")
    ours = subject.jax_model
    state = torchvision.to_state_dict(ours.variables, ours.config.model)
    state["roi_heads.mask_head.2.0.weight"] *= 1.005
    ours.variables = torchvision.from_state_dict(state, ours.config.model)
    subject.add(path.name, images.read_image(path))
    failed = [stage.name for stage in subject.stages.values() if not stage.passed]
    assert failed == ["mask logits"]
    assert not subject.alone.passed


@pytest.mark.parametrize(
    "variant", ["faster-v1", pytest.param("faster-v2", marks=pytest.mark.slow)]
)
def test_faster_rcnn(photographs, variant):
    """torchvision's function builds the model, so this compares the structure too."""
    functions = {
        "faster-v1": reference.detection.fasterrcnn_resnet50_fpn,
        "faster-v2": reference.detection.fasterrcnn_resnet50_fpn_v2,
    }
    path = of_size(photographs, 480, 640)[0]
    subject = comparer(variant, 320, 533)
    built = functions[variant](weights=None, weights_backbone=None, min_size=320, max_size=533)
    missing, unexpected = built.load_state_dict(subject.peer.model.state_dict(), strict=False)
    # Without released weights, the function makes trainable norms, which count batches.
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    subject.peer = reference.as_peer(built.eval())
    subject.add(path.name, images.read_image(path))
    assert not any("mask" in name for name in subject.stages)
    assert subject.alone.mask_share is None
    check_alone(subject, f"{variant} at 320")


@pytest.mark.slow
def test_convnext(photographs, tmp_path):
    """torchvision loads our file strictly into its `MaskRCNN` on its own ConvNeXt."""
    path = of_size(photographs, 480, 640)[0]
    subject = comparer("convnext-tiny", 320, 533, tmp_path / "w.pth")
    body = subject.peer.model.backbone.body
    theirs = reference.torchvision.models.convnext_tiny().features
    assert [x.shape for x in body.parameters()] == [x.shape for x in theirs.parameters()]
    subject.add(path.name, images.read_image(path))
    check_alone(subject, "ConvNeXt-T at 320", least=70)
