"""The names of torchvision's ResNets, and what a depth is recognised by."""

from math import prod

import numpy as np
import pytest

from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.weights import torchvision_resnet


def names_of(depth, prefix=""):
    config = ModelConfig(backbone=ResNetConfig(depth=depth))
    return [entry.name for entry in torchvision_resnet.entries(config, prefix)]


# Parameters of torchvision's classifiers without their last layer, and their buffers.
@pytest.mark.parametrize(
    "backbone, num_parameters",
    [
        (ResNetConfig(depth=18), 11_689_512 - 513_000),
        (ResNetConfig(depth=50), 25_557_032 - 2_049_000),
        (ResNetConfig(depth=50, groups=32, width_per_group=4), 25_028_904 - 2_049_000),
        (ResNetConfig(depth=101, width_per_group=128), 126_886_696 - 2_049_000),
    ],
)
def test_the_table_has_as_many_parameters_as_torchvisions_model(backbone, num_parameters):
    table = list(torchvision_resnet.entries(ModelConfig(backbone=backbone)))
    trained = [x for x in table if not x.name.endswith(("running_mean", "running_var"))]
    assert sum(prod(x.shape) for x in trained) == num_parameters
    assert len({x.name for x in table}) == len({x.path for x in table}) == len(table)


@pytest.mark.parametrize(
    "backbone, name",
    [
        (ResNetConfig(depth=34), "resnet34"),
        (ResNetConfig(depth=50, groups=32, width_per_group=4), "resnext50_32x4d"),
        (ResNetConfig(depth=101, groups=32, width_per_group=8), "resnext101_32x8d"),
        (ResNetConfig(depth=50, width_per_group=128), "wide_resnet50_2"),
    ],
)
def test_torchvisions_names(backbone, name):
    assert torchvision_resnet.architecture(backbone) == name


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_blocks_say_the_depth(depth):
    names = names_of(depth, "backbone.body.")
    assert torchvision_resnet.resnet_depth(names, "backbone.body.") == depth
    assert torchvision_resnet.resnet_depth(names) is None
    assert torchvision_resnet.resnet_depth(names[: len(names) // 2], "backbone.body.") is None


def test_other_families_number_the_stages_from_two():
    pattern = r"res([2-5])\.(\d+)\.(conv3\.)?"
    blocks = {2: 3, 3: 4, 4: 6, 5: 3}
    names = [f"res{stage}.{i}.conv3.w" for stage, count in blocks.items() for i in range(count)]
    assert torchvision_resnet.matched_depth(names, pattern) == 50


def test_a_backbone_comes_without_classifier_and_counters():
    names = ("conv1.weight", "fc.weight", "bn1.num_batches_tracked", "layer1.0.fc.weight")
    state = {name: np.zeros(1) for name in names}
    arrays = torchvision_resnet.present(state)
    assert list(arrays) == ["conv1.weight", "layer1.0.fc.weight"]
    assert list(torchvision_resnet.without_counters(state)) == [*names[:2], names[3]]
