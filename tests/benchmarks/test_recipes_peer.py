"""torchvision's side of a recipe at toy size: the same start and images as ours, resumable."""

import dataclasses
import os

import jax
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch", reason="the other side needs torch")
if not os.environ.get("MASKRCNN_JAX_SHARED"):
    reason = "MASKRCNN_JAX_SHARED does not name the folder with torchvision's stand-ins"
    pytest.skip(reason, allow_module_level=True)

from benchmarks.recipes import peer  # noqa: E402
from maskrcnn_jax.cli.start import prepare  # noqa: E402
from maskrcnn_jax.config import Config  # noqa: E402
from maskrcnn_jax.data.pipeline import train_batches  # noqa: E402
from maskrcnn_jax.model import MaskRCNN  # noqa: E402
from maskrcnn_jax.model_config import (  # noqa: E402
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
)


def toy(**changes):
    model = ModelConfig(
        num_classes=6,
        backbone=ResNetConfig(depth=50, stride_in_1x1=True, norm="batch", frozen_stages=0),
        fpn=FPNConfig(channels=16),
        box_head=BoxHeadConfig(features=32),
        mask_head=MaskHeadConfig(num_convs=1, channels=16),
    )
    model.rpn.anchor_sizes = (8, 16, 32, 64, 128)
    model.rpn.num_candidates = model.rpn.num_proposals = 50
    model.rpn.num_samples, model.roi.num_samples = 5000, 256  # More than there are.
    config = Config(model=model, batch_size=2, num_steps=4, seed=5)
    config.log_every, config.save_every, config.test_batch_size = 1, 1, 1
    config.detection.num_candidates = config.detection.num_proposals = 50
    data = config.data
    data.source, data.shapes_image_size, data.mask_store = "shapes", 64, "full"
    data.shapes_num_train, data.shapes_num_val = 6, 2
    data.short_sides, data.max_long_side = (64,), 128
    data.test_short_side, data.test_max_long_side = 64, 128
    data.buckets = data.test_buckets = ((64, 128), (128, 64))
    data.max_instances = 8
    config.optimizer.warmup_steps, config.optimizer.max_gradient_norm = 2, 10.0
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return prepare(toy(), tmp_path_factory.mktemp("start"))


def test_the_losses_of_the_first_image_are_ours(start):
    """All anchors and RoIs are sampled, so both programs have the same."""
    config = start.config
    batch = next(train_batches(start.train_data, config.data, batch_size=1, seed=5))
    model = peer.build(start)
    assert model.backbone.body.layer3[0].conv1.stride == (2, 2)
    optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad])
    theirs = peer._step(model, optimizer, batch, 0.0, config)
    (ours, _), _ = MaskRCNN(config.model).apply(
        start.variables,
        jax.device_put(batch),
        jax.random.key(0),
        method="losses",
        mutable=["batch_stats"],
    )
    assert len(ours) == 5
    for name, (total, count) in ours.items():
        assert float(total / max(count, 1)) == pytest.approx(float(theirs[name]), rel=2e-3), name


def test_inputs_are_the_batch_without_padding(start):
    batch = next(train_batches(start.train_data, start.config.data, batch_size=2, seed=5))
    images, targets = peer.inputs(batch)
    for i in range(2):
        height, width = batch.sizes[i]
        pixels = (255 * images[i].permute(1, 2, 0)).round().numpy()
        np.testing.assert_array_equal(pixels, batch.images[i, :height, :width])
        count = batch.instances.valid[i].sum()
        assert count and targets[i]["masks"].shape == (count, height, width)
        rows = targets[i]["masks"].numpy().any(2)
        tops = np.array([np.flatnonzero(row)[0] for row in rows])
        assert np.abs(tops - targets[i]["boxes"][:, 1].numpy()).max() <= 1
        assert set(np.unique(targets[i]["masks"])) == {0, 1}


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    whole = peer.train(toy(), tmp_path / "whole")
    step, taken = peer._step, []

    def stop_after_two(*arguments):
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(1)
        return step(*arguments)

    monkeypatch.setattr(peer, "_step", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        peer.train(toy(), tmp_path / "parts")
    monkeypatch.setattr(peer, "_step", step)
    parts = peer.train(toy(), tmp_path / "parts")
    states = [torch.load(tmp_path / name / peer.CHECKPOINT) for name in ("whole", "parts")]
    assert states[0]["step"] == states[1]["step"] == 4
    for name, array in states[0]["model"].items():
        assert torch.equal(array, states[1]["model"][name]), name
    assert parts.numbers == whole.numbers and parts.detections == whole.detections
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert [log.count('"loss"') for log in logs] == [4, 4]


@pytest.mark.parametrize("name, value", [("mask_store", "crop"), ("average_decay", 0.9)])
def test_what_torchvision_cannot_do_is_refused(tmp_path, name, value):
    config = toy()
    setattr(config.data if name == "mask_store" else config.optimizer, name, value)
    with pytest.raises(ValueError, match="torchvision"):
        peer.train(config, tmp_path / "run")
