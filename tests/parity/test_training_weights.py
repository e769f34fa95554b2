"""Weights that keep the inputs of ReLUs away from zero; test_training_live.py trains from them."""

import numpy as np
import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the module changes torchvision's layers")

from maskrcnn_jax.parity import training_weights  # noqa: E402

torch = training_weights.torch


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return [3 + 2 * torch.randn(2, 4, 6, 6) for _ in range(2)]


@torch.no_grad()
def test_a_standardised_layer_has_these_outputs(inputs):
    layer = torch.nn.Conv2d(4, 8, 3)
    found = training_weights._standardise(layer, [layer(x) for x in inputs], deviation=0.5)
    positions = training_weights._by_channel(torch.cat(found))
    assert positions.shape == (8, 4 * 16)
    torch.testing.assert_close(positions.mean(1), torch.zeros(8), atol=1e-5, rtol=0)
    assert positions.var(1).mean().sqrt() == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(torch.cat([layer(x) for x in inputs]), torch.cat(found))


@torch.no_grad()
def test_channels_move_away_from_zero(inputs):
    layer = torch.nn.Conv2d(4, 8, 3)
    means = 6 * training_weights._draw_sides(np.random.default_rng(0), layer)
    assert set(means.tolist()) == {6.0, -6.0}
    found = training_weights._move_away(layer, layer(inputs[0]), means=means)
    torch.testing.assert_close(layer(inputs[0]), found)
    torch.testing.assert_close(found.mean((0, 2, 3)), means, atol=1e-4, rtol=1e-4)
    assert found.abs().min() > 0.5


@torch.no_grad()
def test_zero_lies_in_a_gap_with_a_few_positions_beyond(inputs):
    layer = torch.nn.BatchNorm2d(4)
    sides = torch.tensor([1.0, -1.0, 1.0, 1.0])
    outputs = training_weights._into_a_gap(layer, inputs, sides)
    for norm, output in zip(map(layer, inputs), outputs, strict=True):
        torch.testing.assert_close(norm.relu(), output)
    signed = sides[:, None] * training_weights._by_channel(torch.cat([layer(x) for x in inputs]))
    across = (signed < 0).sum(1)
    assert ((1 <= across) & (across <= training_weights.TAIL)).all()


@torch.no_grad()
def test_only_the_first_output_is_replaced():
    layer = torch.nn.Identity()
    training_weights._on_first_use(layer, lambda module, output: output + 1)
    x = torch.zeros(2)
    assert layer(x).tolist() == [1, 1] and layer(x).tolist() == [0, 0]
