"""Compares a training step with MMDetection and Detectron2, live, on the draws that they made.

MMDetection needs ``mmdet==3.3.0 mmcv-lite==2.1.0 mmengine``. Detectron2 needs a checkout, which the
environment variable DETECTRON2 names, and ``fvcore iopath omegaconf hydra-core yacs``; nothing of
it is compiled.
"""

import dataclasses
import importlib
import os
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")
if not os.environ.get("MASKRCNN_JAX_SHARED"):
    reason = "MASKRCNN_JAX_SHARED does not name the folder with the photographs"
    pytest.skip(reason, allow_module_level=True)

from maskrcnn_jax import presets, training  # noqa: E402
from maskrcnn_jax.data import masks, rle  # noqa: E402
from maskrcnn_jax.data import sample as data_sample  # noqa: E402
from maskrcnn_jax.data.coco import CocoDataset  # noqa: E402
from maskrcnn_jax.data.dataset import Example  # noqa: E402
from maskrcnn_jax.execution import Execution  # noqa: E402
from maskrcnn_jax.model import MaskRCNN  # noqa: E402
from maskrcnn_jax.model_config import ResNetConfig, ViTConfig  # noqa: E402
from maskrcnn_jax.parity import (  # noqa: E402
    recipe,
    reference,
    training_replay,
    training_weights,
)
from maskrcnn_jax.weights import detectron2, layout, mmdetection, torchvision  # noqa: E402
from tests.conftest import QUICK_COMPILE  # noqa: E402
from tests.parity import mmcv_operators, peer_replay, smooth, training_peers  # noqa: E402

quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)
SIZES = (112, 160), (112, 150)  # Of the photographs; both have the canvas 128x160.
SIDES = {"short_side": 112, "max_long_side": 1333}
SQUARE = 160  # The side of the images of a ViT.
# The number of objects that the two photographs keep in each batch; None for all.
KEPT = (None, 1), (0, 0), (1, 0)


@pytest.fixture(scope="module")
def batches(shared):
    """Two photographs with some of their objects."""
    root = shared / "data" / "coco_subset"
    dataset = CocoDataset(root / "val", root / "instances_val.json", keep_empty=False)
    wide = [i for i, (height, width) in enumerate(dataset.sizes) if width > height]
    chosen = sorted(wide, key=lambda i: -len(dataset.labels[i]))[:2]
    examples = [resized(dataset[i], size) for i, size in zip(chosen, SIZES, strict=True)]
    return [[keep(*pair) for pair in zip(examples, counts, strict=True)] for counts in KEPT]


def resized(example, size):
    """The photograph with bitmaps as masks, at a size that no side has to change."""
    sample = data_sample.resize(data_sample.whole(example), size)
    bitmaps = [masks.to_bitmap(mask, size) for mask in sample.masks]
    visible = [i for i, bitmap in enumerate(bitmaps) if bitmap.any()]
    return Example(
        sample.image,
        example.image_id,
        sample.boxes[visible].astype(np.float32),
        sample.classes[visible],
        [rle.encode_bitmap(bitmaps[i]) for i in visible],
    )


def keep(example, count):
    boxes, classes = example.boxes[:count], example.classes[:count]
    return example._replace(boxes=boxes, classes=classes, masks=example.masks[:count])


def settings(preset):
    """A preset with torchvision's input, so that its weights settle in torchvision's model."""
    config = preset()
    if isinstance(config.model.backbone, ResNetConfig):
        presets.use_torchvision_input(config.model)
    config.model.roi.num_samples = 64
    return config


def weights(config, batches):
    plain = recipe.config("v1")
    plain.num_classes = config.model.num_classes
    ours = config.model.backbone
    sizes = {"depth": ours.depth, "groups": ours.groups, "width_per_group": ours.width_per_group}
    plain.backbone = dataclasses.replace(plain.backbone, **sizes)
    plain.image_mean, plain.image_std = config.model.image_mean, config.model.image_std
    state = training_weights.settled(plain, batches[:1], **SIDES)
    if config.model.cascade is None:
        return torchvision.from_state_dict(state, config.model)
    plain.backbone.norm = config.model.backbone.norm
    return staged(torchvision.from_state_dict(state, plain), config.model.cascade)


def staged(variables, cascade):
    """The weights of a cascade, whose heads are those of a single stage with some noise."""
    rng = np.random.default_rng(0)

    def noisy(x):
        return (x * rng.uniform(0.9, 1.1, x.shape)).astype(np.float32)

    params = dict(variables["params"])
    head = params["box_head"] | {
        "bbox_pred": jax.tree.map(lambda x: x[..., 4:8], params["box_head"]["bbox_pred"])
    }
    stages = [f"stage_{i}" for i in range(cascade.num_stages)]
    params["box_head"] = {stage: jax.tree.map(noisy, head) for stage in stages}
    if cascade.mask_heads == "each":
        head = params["mask_head"]
        params["mask_head"] = {stage: jax.tree.map(noisy, head) for stage in stages}
    return variables | {"params": params}


def padded(batch, side):
    """The batch on a square, as ViTDet sees it."""
    height, width = batch.images.shape[1:3]
    gaps = (0, 0), (0, side - height), (0, side - width), (0, 0)
    return batch._replace(
        images=np.pad(batch.images, gaps), canvas=np.full_like(batch.canvas, side)
    )


class Ours:
    """Our losses and gradients on the draws of another library."""

    def __init__(self, family, config, variables, batches, square=None):
        self.family, self.config, self.variables = family, config, variables
        image_padding = config.data.padding
        self.batches = list(training_replay.batches(batches, **SIDES, image_padding=image_padding))
        if square is not None:
            self.batches = [padded(batch, square) for batch in self.batches]
        first = self.batches[0]
        bucket, slots = first.images.shape[1:3], first.instances.valid.shape[1]
        canvas = tuple(first.canvas[0].tolist())
        self.replay = peer_replay.Replay(config.model, bucket, slots, quick_jit, canvas)
        self._gradient = quick_jit(self._losses_and_gradient)

    def _losses_and_gradient(self, params, batch, samples):
        run = Execution()._replace(per_image=peer_replay.replaying(samples))
        model = MaskRCNN(self.config.model, run=run)

        def loss(params):
            variables = self.variables | {"params": params}
            return model.apply(variables, batch, jax.random.key(0), method="loss")

        return jax.value_and_grad(loss, has_aux=True)(params)

    def compare(self, number, step):
        """Checks the step on a batch; the largest errors of losses and of gradients."""
        batch = jax.tree.map(jax.numpy.asarray, self.batches[number])
        samples = self.replay.samples(batch, step)
        assert self.replay.num_wrong(samples, step) == 0
        self.check_masks(samples, step)
        (_, metrics), gradient = self._gradient(self.variables["params"], batch, samples)
        table = list(self.family.entries(self.config.model))
        gradients = layout.restore(self.variables | {"params": gradient}, table)
        losses = {
            name: abs(float(metrics[name]) - theirs) / (abs(theirs) or 1)
            for name, theirs in step.losses.items()
        }
        return losses, gradient_errors(gradients, step.gradients)

    def check_masks(self, samples, step):
        positive = np.asarray(samples.rois.positive)[:, : samples.masks.shape[1]]
        ours = np.asarray(samples.masks)[positive]
        np.testing.assert_array_equal(ours, step.mask_targets.reshape(-1, *ours.shape[1:]))


def gradient_errors(ours, theirs):
    """The norm of the difference over that of the gradient, or over 1e-6 of the whole gradient."""
    whole = np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in theirs.values()))
    return {
        name: np.linalg.norm(ours[name] - x) / max(np.linalg.norm(x), 1e-6 * whole)
        for name, x in theirs.items()
    }


def check(ours, take_step, batches):
    for number, batch in enumerate(batches):
        step = take_step(batch)
        losses, gradients = ours.compare(number, step)
        worst = max(gradients, key=gradients.get)
        print(number, step.losses, losses, worst, gradients[worst])
        assert max(losses.values()) < 1e-5 and gradients[worst] < 1e-3
        masks = step.losses.get("loss_mask", step.losses.get("loss_mask_stage0"))
        assert bool(masks) == any(len(x.boxes) for x in batch)


@pytest.mark.parametrize(
    "preset", ["mmdet_r50_fpn", pytest.param("mmdet_cascade_r50_fpn", marks=pytest.mark.slow)]
)
def test_a_step_of_mmdetection(batches, preset):
    pytest.importorskip("mmdet", reason="the comparison needs MMDetection")
    config = settings(presets.OF_OTHERS[preset])
    variables = weights(config, batches)
    mmcv_operators.stand_in(reference.torch.ops.torchvision)
    peer = importlib.import_module("maskrcnn_jax.parity.mmdetection").peer
    model = peer(config, variables, **SIDES).model
    ours = Ours(mmdetection, config, variables, batches)
    check(ours, partial(training_peers.mmdetection_step, model), batches[:2])


def with_giou():
    """The rules of ``mask_rcnn_R_50_FPN_1x_giou``."""
    config = presets.detectron2_r50_fpn()
    config.model.rpn.box_loss = config.model.roi.box_loss = "giou"
    config.model.rpn.box_loss_weight, config.model.roi.box_loss_weight = 2.0, 10.0
    return config


def sigmoid_cascade():
    """A cascade whose classes have probabilities of their own."""
    config = presets.detectron2_cascade_r50_fpn()
    config.model.box_head.classifier = "sigmoid"
    return config


def resnext():
    """Detectron2's ResNeXt with the sizes of a ResNeXt-50 32x4d."""
    config = presets.detectron2_x101_32x8d_fpn()
    config.model.backbone.depth, config.model.backbone.width_per_group = 50, 4
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    [
        presets.detectron2_r50_fpn,
        presets.detectron2_cascade_r50_fpn,
        sigmoid_cascade,
        with_giou,
        resnext,
    ],
)
def test_a_step_of_detectron2(batches, preset):
    if not os.environ.get("DETECTRON2"):
        pytest.skip("DETECTRON2 does not name a checkout")
    config = settings(preset)
    variables = weights(config, batches)
    peer = importlib.import_module("maskrcnn_jax.parity.detectron2").peer
    model = peer(config, variables, **SIDES).model
    ours = Ours(detectron2, config, variables, batches)
    check(ours, partial(training_peers.detectron2_step, model), batches)


def vitdet():
    """A narrow ViTDet of four blocks."""
    config = presets.detectron2_vitdet_b()
    sizes = {"image_side": SQUARE, "width": 96, "depth": 4, "num_heads": 3}
    config.model.backbone = ViTConfig(**sizes, global_blocks=(1, 3), drop_path=0.0)
    return config


def dc5():
    """A DC5 network with a quarter of the channels."""
    config = presets.detectron2_r50_dc5()
    config.model.backbone.stem_channels = 16
    return config


@pytest.mark.slow
@pytest.mark.parametrize("preset", [vitdet, presets.detectron2_r50_c4, dc5])
def test_a_step_of_networks_that_torchvision_lacks(batches, monkeypatch, preset):
    """No weights settle in a model of torchvision, so a smooth function replaces all ReLUs."""
    if not os.environ.get("DETECTRON2"):
        pytest.skip("DETECTRON2 does not name a checkout")
    config = settings(preset)
    variables = recipe.variables(config.model)
    smooth.use(monkeypatch)
    peer = importlib.import_module("maskrcnn_jax.parity.detectron2").peer
    model = peer(config, variables, **SIDES).model
    square = SQUARE if preset is vitdet else None
    ours = Ours(detectron2, config, variables, batches, square=square)
    check(ours, partial(training_peers.detectron2_step, model), batches[:1])


@pytest.mark.slow
def test_the_rates_of_layers_are_vitdets():
    if not os.environ.get("DETECTRON2"):
        pytest.skip("DETECTRON2 does not name a checkout")
    importlib.import_module("maskrcnn_jax.parity.detectron2")  # Makes it importable.
    rate = importlib.import_module("detectron2.modeling.backbone.vit").get_vit_lr_decay_rate
    config = presets.detectron2_vitdet_b()
    table = [x for x in detectron2.entries(config.model) if x.path[0] == "params"]
    params = unflatten_dict({x.path[1:]: np.ones((), np.float32) for x in table})
    config.optimizer.weight_decay = 0.0
    optimizer = training.make_optimizer(config, params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    found = flatten_dict(updates)
    whole = float(found["box_head", "cls_score", "bias"])
    for entry in table:
        expected = rate(entry.name, lr_decay_rate=0.7, num_layers=12)
        assert float(found[entry.path[1:]]) / whole == pytest.approx(expected, rel=1e-4), entry.name


def test_the_warm_up_is_mmdetections():
    pytest.importorskip("mmdet", reason="the comparison needs MMDetection")
    torch, scheduler = pytest.importorskip("torch"), importlib.import_module("mmengine.optim")
    config = presets.mmdet_r50_fpn()
    optimizer = torch.optim.SGD([torch.zeros(1)], config.optimizer.learning_rate)
    warmup = scheduler.LinearLR(optimizer, start_factor=0.001, by_epoch=False, begin=0, end=500)
    rates = []
    for _ in range(600):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warmup.step()
    ours = training.learning_rate(config.optimizer, config.batch_size, config.num_steps)
    np.testing.assert_allclose(
        [ours(i) for i in (0, 1, 77, 498, 499, 599)],
        [rates[i] for i in (0, 1, 77, 498, 499, 599)],
        rtol=1e-5,
    )


@pytest.mark.slow
def test_the_weight_decay_and_the_schedule_are_detectron2s():
    checkout = os.environ.get("DETECTRON2")
    if not checkout:
        pytest.skip("DETECTRON2 does not name a checkout")
    importlib.import_module("maskrcnn_jax.parity.detectron2")  # Makes it importable.
    cfg = importlib.import_module("detectron2.config").get_cfg()
    cfg.merge_from_file(f"{checkout}/configs/Misc/mask_rcnn_R_50_FPN_3x_gn.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    model = importlib.import_module("detectron2.modeling").build_model(cfg)
    solver = importlib.import_module("detectron2.solver")
    optimizer = solver.build_optimizer(cfg, model)
    decays = {
        id(x): group["weight_decay"] for group in optimizer.param_groups for x in group["params"]
    }
    theirs = {name: decays.get(id(x), 0) for name, x in model.named_parameters()}

    config = presets.detectron2_r50_fpn_gn()
    table = [x for x in detectron2.entries(config.model) if x.path[0] == "params"]
    params = unflatten_dict({x.path[1:]: np.ones((), np.float32) for x in table})
    ours = training.make_optimizer(config, params)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = ours.update(zeros, ours.init(params), params)
    rate = training.learning_rate(config.optimizer, config.batch_size, config.num_steps)
    decayed = flatten_dict(updates)
    found = {x.name: float(-decayed[x.path[1:]] / rate(0)) for x in table}
    assert found == pytest.approx(theirs, rel=1e-5) and len(set(theirs.values())) == 2

    schedule = solver.build_lr_scheduler(cfg, optimizer)
    for step in (0, 1, 500, 999, 1000, 209_999, 210_000, 250_000, 269_999):
        expected = cfg.SOLVER.BASE_LR * schedule._multiplier(step / cfg.SOLVER.MAX_ITER)
        assert rate(step) == pytest.approx(expected, rel=1e-5), step
