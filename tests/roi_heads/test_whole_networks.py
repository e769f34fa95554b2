"""Whole networks with other RoI heads: their losses, and their exported programs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.artifacts import artifact, export
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ResNetConfig
from maskrcnn_jax.modules import resnet
from maskrcnn_jax.ops.rounding import ceil32
from maskrcnn_jax.settings import freeze
from tests.conftest import QUICK_COMPILE, random_variables
from tests.test_model import make_batch

pytestmark = pytest.mark.slow
NETWORKS = {
    "cascade": presets.use_cascade,
    "cascade of MMDetection": presets.use_cascade_of_mmdetection,
    "C4": presets.use_c4,
    "DC5": presets.use_dc5,
}
quick = partial(jax.jit, compiler_options=QUICK_COMPILE)


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS)
def network(request):
    """A small network with random weights."""
    config = presets.detectron2_r50_fpn(num_classes=4)
    request.param(config)
    model, detection = config.model, config.detection
    model.backbone.norm = "group"
    if model.fpn is None:
        model.backbone.stem_channels = 32
    else:
        model.backbone.depth, model.fpn.channels = 18, 32
    model.rpn.anchor_sizes = (8.0, 16.0, 32.0, 64.0, 128.0)
    model.rpn.num_samples = 32
    model.rpn.num_candidates = model.rpn.num_proposals = 64
    detection.num_candidates = detection.num_proposals = 48
    detection.num_detections, model.roi.num_samples = 20, 16
    # 0 would follow the size of an RoI, and rounding decides where that is a whole number of bins.
    model.roi.sampling_ratio = 2
    model.box_head.features, model.mask_head.channels = 64, 16
    model.mask_head.num_convs = min(model.mask_head.num_convs, 1)
    network = MaskRCNN(model, detection)
    return network, random_variables(network)


def test_losses_and_gradients_are_finite_and_reach_every_stage(network):
    model, variables = network

    def loss(params, batch):
        return model.apply({"params": params}, batch, jax.random.key(0), method="loss")

    step = quick(jax.value_and_grad(loss, has_aux=True))
    (total, metrics), gradient = step(variables["params"], make_batch())
    assert np.isfinite(total)
    stages = model.config.cascade.num_stages if model.config.cascade else 1
    assert sum(name.startswith("loss_classifier") for name in metrics) == stages
    for head, layers in gradient.items():
        if head in ("box_head", "mask_head"):
            for each in layers.values():  # A stage, or a layer. A late stage may lack positives.
                sizes = [float(jnp.abs(x).max()) for x in jax.tree.leaves(each)]
                assert np.isfinite(sizes).all() and max(sizes) > 0
    nothing = make_batch()
    instances = nothing.instances._replace(valid=np.zeros_like(nothing.instances.valid))
    (total, metrics), gradient = step(variables["params"], nothing._replace(instances=instances))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((total, gradient)))
    assert not any(v for k, v in metrics.items() if k.startswith(("loss_box", "loss_mask")))


def test_the_last_stage_is_that_of_the_resnet():
    """On the map of a whole image it gives C5."""
    config = freeze(ResNetConfig(depth=50, stem_channels=4, norm="batch"))
    images = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)
    whole, canvas = resnet.ResNet(config), jnp.full((2, 2), 96)
    variables = quick(whole.init)(jax.random.key(0), images, canvas)
    features = quick(whole.apply)(variables, images, canvas)
    ours = {
        kind: {name: x for name, x in layers.items() if name.startswith("layer4")}
        for kind, layers in variables.items()
    }
    found = quick(resnet.LastStage(config).apply)(ours, features[4])
    assert found.shape == (2, 3, 3, 128)
    np.testing.assert_allclose(found, features[5], rtol=1e-4, atol=1e-4)


def test_an_exported_program_finds_the_same(network, tmp_path):
    model, variables = network
    path, data = tmp_path / "tiny.npz", DataConfig(test_buckets=((64, 96),))
    detector = Detector(model, variables, Categories.numbered(3), data)
    export.export(detector, path, batch_size=2, dtype="uint8")
    found = artifact.read(path)
    batch = make_batch()
    inputs = batch.images[:2], batch.sizes[:2], ceil32(batch.sizes[:2]), jnp.float32(0.1)
    ours = jax.device_get(quick(model.apply)(variables, *inputs))
    theirs = jax.device_get(quick(artifact.ExportedModel(found).apply)(found.weights, *inputs))
    assert ours.valid.sum() >= 10
    np.testing.assert_array_equal(theirs.valid, ours.valid)
    for i in range(len(ours.valid)):
        a, b = detected(theirs, i), detected(ours, i)
        order = nearest(a, b)
        assert sorted(order) == list(range(len(order)))
        assert abs(b.scores[order] - b.scores).max(initial=0) < 1e-4
        for name, array in a._asdict().items():
            tolerance = 0.05 if name == "boxes" else 1e-3  # Stages add up their rounding.
            np.testing.assert_allclose(array, getattr(b, name)[order], atol=tolerance)


def detected(batch, i):
    """The detections of one image, without empty slots."""
    return jax.tree.map(lambda x: x[i][batch.valid[i]], batch)


def nearest(a, b):
    """The detection of ``b`` for each of ``a``: rounding may swap two of nearly equal scores."""
    distances = abs(a.boxes[:, None] - b.boxes).max(-1)
    return np.where(a.classes[:, None] == b.classes, distances, np.inf).argmin(1)
