"""Vision transformers: Detectron2's names and counts, files in and out, MAE's encoder."""

from math import prod

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import (
    backbones,
    detectron2,
    files,
    layout,
    loading,
    translation,
    vit,
)
from tests.weights.families import reduced

B, L = presets.detectron2_vitdet_b, presets.detectron2_vitdet_l


def narrow():
    config = reduced(B(4))
    config.model.backbone.image_side = 256
    return config


def state_of(config):
    random = np.random.default_rng(0)
    table = detectron2.entries(config.model)
    return {x.name: random.normal(size=x.shape).astype(np.float32) for x in table}


# Counted in Detectron2's models.
@pytest.mark.parametrize(
    "build, num_arrays, num_parameters", [(B, 245, 110_895_792), (L, 413, 330_684_656)]
)
def test_the_tables_have_as_many_arrays_as_detectron2s_models(build, num_arrays, num_parameters):
    table = list(detectron2.entries(build().model))
    assert len(table) == len({x.name for x in table}) == num_arrays
    assert sum(prod(x.shape) for x in table) == num_parameters


def test_names_and_shapes_are_detectron2s():
    shapes = layout.shapes(detectron2.entries(B().model))
    expected = {
        "backbone.net.pos_embed": (1, 197, 768),
        "backbone.net.patch_embed.proj.weight": (768, 3, 16, 16),
        "backbone.net.blocks.0.attn.rel_pos_h": (27, 64),
        "backbone.net.blocks.2.attn.rel_pos_w": (127, 64),
        "backbone.net.blocks.11.attn.qkv.weight": (2304, 768),
        "backbone.net.blocks.11.mlp.fc2.weight": (768, 3072),
        "backbone.net.blocks.3.norm2.bias": (768,),
        "backbone.simfp_2.0.weight": (768, 384, 2, 2),
        "backbone.simfp_2.1.weight": (384,),
        "backbone.simfp_2.3.bias": (192,),
        "backbone.simfp_2.4.weight": (256, 192, 1, 1),
        "backbone.simfp_2.5.norm.bias": (256,),
        "backbone.simfp_3.0.weight": (768, 384, 2, 2),
        "backbone.simfp_4.0.weight": (256, 768, 1, 1),
        "backbone.simfp_5.2.weight": (256, 256, 3, 3),
        "roi_heads.box_head.conv4.norm.weight": (256,),
        "proposal_generator.rpn_head.conv.conv1.bias": (256,),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_a_file_comes_in_and_goes_out(tmp_path):
    config, path = narrow(), tmp_path / "w.safetensors"
    state = state_of(config)
    files.write(path, state)
    loaded = loading.load(path)
    assert loaded.config.model == config.model
    assert "RGB pixels divided by their deviation, as in Detectron2's ViTDet" in str(loaded.report)
    translated = translation.translate(loaded, "detectron2")
    translation.write(tmp_path / "out.pkl", translated)
    back = files.read(tmp_path / "out.pkl").arrays
    assert back.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    for target in ("torchvision", "mmdet"):
        with pytest.raises(ValueError, match=f"{target} has no network with a ViT"):
            translation.translate(loaded, target)


def mae(config):
    """MAE's encoder: the backbone without relative positions, a class token and a last norm."""
    state = {
        x.name.removeprefix(vit.NET): np.random.default_rng(1).normal(size=x.shape).astype("f")
        for x in vit.entries(config)
        if vit.is_pretrained(x.name)
    }
    width = config.backbone.width
    extra = {"cls_token": np.zeros((1, 1, width)), "norm.weight": np.ones(width)}
    return state | {"norm.bias": np.zeros(width)} | extra


def variables_of(config):
    table = [x for x in detectron2.entries(config) if x.path[1] in ("backbone", "fpn")]
    ones = layout.arrange({x.name: np.ones(x.shape, np.float32) for x in table}, table)
    return {"constants": {}, "batch_stats": {}} | ones


def test_maes_encoder_starts_a_training(tmp_path):
    config = narrow().model
    state = mae(config)
    files.write(tmp_path / "mae.pth", state)
    loaded = backbones.load(str(tmp_path / "mae.pth"), variables_of(config), config)["params"]
    block = loaded["backbone"]["blocks_1"]
    np.testing.assert_array_equal(
        block["attn"]["qkv"]["kernel"], state["blocks.1.attn.qkv.weight"].T
    )
    np.testing.assert_array_equal(block["attn"]["rel_pos_h"], 1)
    np.testing.assert_array_equal(loaded["backbone"]["pos_embed"], state["pos_embed"])
    np.testing.assert_array_equal(loaded["fpn"]["lateral2"]["kernel"], 1)


RESNET = {"layer1.0.conv1.weight": np.ones((4, 4, 3, 3)), "conv1.weight": np.ones((4, 3, 7, 7))}


def test_backbones_of_another_kind_are_named_with_the_preset_that_fits(tmp_path):
    small, path = narrow().model, tmp_path / "w.safetensors"
    files.write(path, RESNET)
    with pytest.raises(ValueError, match="w.safetensors holds no vision transformer with MAE's"):
        backbones.load(str(path), {}, small)
    state = mae(small)
    files.write(path, state)
    with pytest.raises(ValueError, match="holds ViT of 3 blocks with 16.*is resnet50"):
        backbones.load(str(path), {}, ModelConfig())
    state = {"pos_embed": np.zeros((1, 197, 1024)), "patch_embed.proj.weight": np.zeros(1)}
    state |= {f"blocks.{i}.attn.qkv.weight": np.zeros(1) for i in range(24)}
    files.write(path, state)
    with pytest.raises(ValueError, match="holds ViT-L, .* is ViT-B: presets.detectron2_v"):
        backbones.load(str(path), {}, B().model)


@pytest.mark.parametrize("name", ["pos_embed", "blocks.1.attn.rel_pos_h"])
def test_a_detector_that_lacks_an_array_is_refused(tmp_path, name):
    state = state_of(narrow())
    del state[vit.NET + name]
    files.write(tmp_path / "w.safetensors", state)
    with pytest.raises(ValueError, match=f"w.safetensors.*lacks an array.*{name}"):
        loading.load(tmp_path / "w.safetensors")
