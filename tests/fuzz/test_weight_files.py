"""Any weight file is read, or refused with one message; nothing in it runs."""

import json
import pickle

import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_jax import presets
from maskrcnn_jax.cli import convert  # noqa: F401  (imported before memory is limited)
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.weights import (
    detectron1,
    detectron2,
    files,
    loading,
    mmdetection,
    model_metadata,
    torchvision,
)
from tests.fuzz import guard, mutations, weight_bytes
from tests.weights import families, states

MAX_MESSAGE = 4000
randoms = st.randoms(use_true_random=False)


@given(rng=randoms, kind=st.sampled_from(sorted(weight_bytes.FILES)))
def test_bytes(tmp_path, rng, kind):
    content = weight_bytes.changed(rng, kind)
    path = tmp_path / "changed.pth"
    path.write_bytes(content)
    with guard.limits("test_bytes", len(content)):
        try:
            arrays = files.read(path).arrays
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < MAX_MESSAGE
            return
        assert all(array.dtype in files.DTYPES for array in arrays.values())
        # A tensor may repeat elements, up to `pytorch.MAX_REPEATED`.
        assert all(array.nbytes <= max(len(content), 8 << 20) for array in arrays.values())


@pytest.mark.parametrize("kind", sorted(weight_bytes.FILES))
def test_the_unchanged_files_are_read(tmp_path, kind):
    path = tmp_path / "good.pth"
    path.write_bytes(weight_bytes.FILES[kind])
    assert len(files.read(path).arrays) >= 2


CONFIG = """img_norm_cfg = dict(mean=[1, 2, 3.5], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(backbone=dict(type='ResNet', style='caffe', a=[{'b': (1, 2)}, {3}]))
"""


def detectors():
    """The arrays and the metadata of a small detector of each family."""
    config = Config(model=states.small(Config().model))
    state, metadata = states.state_of(config.model), model_metadata.encode(config, None)
    variables = torchvision.from_state_dict(state, config.model)
    found = {"torchvision": (state, metadata)}
    found["ours"] = traverse_util.flatten_dict(variables, sep="/"), metadata
    for family, preset in (
        (detectron2, presets.detectron2_r50_fpn()),
        (mmdetection, presets.mmdet_r50_fpn()),
        (detectron1, presets.detectron2_r50_fpn()),
    ):
        config = families.reduced(preset, 50 if family is detectron1 else 18)
        found[family.__name__] = families.state_of(family, config), {"checkpoint.config": CONFIG}
    return found


DETECTORS = detectors()


def changed_text(rng, text):
    """Another JSON text, or another config of MMDetection."""
    if text.startswith(("{", "[")):
        return json.dumps(mutations.value(rng, json.loads(text)))
    part = rng.choice(("{[1]: 2}", "{[]}", "-" * 9000 + "1", "f()", "mean=mean", "1e999", "'"))
    at = rng.randrange(len(text))
    return text[:at] + part + text[at + rng.randrange(5) :]


def changed_arrays(rng, arrays):
    arrays = dict(arrays)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(sorted(arrays))
        array = arrays[name]
        match rng.randrange(8):
            case 0:
                del arrays[name]
            case 1:
                arrays[rng.choice((f"module.{name}", f"{name}0", "", "x" * 500, "\ud800"))] = array
            case 2:
                arrays[name] = array[:0] if array.ndim else array.reshape(1)
            case 3:
                arrays[name] = array.reshape(rng.choice(((-1,), (1, -1), (-1, 1, 1, 1))))
            case 4:
                arrays[name] = np.concatenate([array.ravel()] * 2)
            case 5:
                arrays[name] = array.astype(rng.choice((np.int64, np.bool_, np.float64, np.int8)))
            case 6:
                arrays[name] = array * np.float32(rng.choice((np.nan, np.inf, 0, -1, 1e38)))
            case 7:
                arrays[name] = np.array(rng.random(), np.float32)
    return arrays


def load_changed(tmp_path, rng, family):
    arrays, metadata = DETECTORS[family]
    arrays = changed_arrays(rng, arrays) if rng.random() < 0.8 else arrays
    if metadata and rng.random() < 0.5:
        key = rng.choice(sorted(metadata))
        metadata = metadata | {key: changed_text(rng, metadata[key])}
    path = tmp_path / "changed.npz"
    if rng.random() < 0.3:
        path.write_bytes(pickle.dumps({rng.choice(("model", "blobs")): arrays}, 4))
    else:
        try:
            files.write(path, arrays, metadata)
        except (ValueError, UnicodeError):  # Not every name can be written.
            return
    # XLA starts threads, each of which takes address space.
    with guard.limits(f"arrays of {family}", path.stat().st_size, base=4 << 30):
        try:
            loaded = loading.load(path)
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < 40_000
            return
        assert str(loaded.report)


@settings(max_examples=max(settings().max_examples // 5, 2))
@given(rng=randoms, family=st.sampled_from([name for name in sorted(DETECTORS) if name != "ours"]))
def test_arrays_of_detectors(tmp_path, rng, family):
    load_changed(tmp_path, rng, family)


@settings(max_examples=max(settings().max_examples // 200, 1))
@given(rng=randoms)
def test_arrays_by_our_names(tmp_path, rng):
    """These examples are few: the shapes of our variables take two seconds."""
    load_changed(tmp_path, rng, "ours")


@given(rng=randoms)
def test_metadata(rng):
    metadata = dict(DETECTORS["ours"][1])
    metadata[model_metadata.CATEGORIES] = json.dumps([{"id": 1, "name": "a"}])
    key = rng.choice(sorted(metadata))
    metadata[key] = json.dumps(mutations.value(rng, json.loads(metadata[key])))
    with guard.limits("test_metadata", len(metadata[key])):
        try:
            config, categories = model_metadata.decode(metadata)
        except ValueError as error:
            assert repr(key) in str(error) and len(str(error)) < MAX_MESSAGE
        else:
            assert hash(freeze(config.model)) and len(categories) == len(set(categories.ids))


@given(rng=randoms, kind=st.sampled_from(sorted(weight_bytes.FILES)))
def test_the_command(tmp_path_factory, rng, kind):
    folder = tmp_path_factory.mktemp("convert")
    content = weight_bytes.changed(rng, kind)
    (folder / "in.pth").write_bytes(content)
    with guard.limits("test_the_command", len(content)):
        assert main(["convert", str(folder / "in.pth"), str(folder / "out.npz")]) in (0, 2)


@pytest.mark.parametrize("family", [name for name in DETECTORS if name != "ours"])
def test_the_unchanged_detectors_are_loaded(tmp_path, family):
    """Otherwise all examples above would end at the same message."""
    files.write(tmp_path / "good.npz", *DETECTORS[family])
    assert loading.load(tmp_path / "good.npz").report.num_arrays > 50


def test_our_names_are_those_of_the_variables():
    arrays, metadata = DETECTORS["ours"]
    config = model_metadata.decode(metadata)[0]
    expected = {entry.path for entry in torchvision.entries(config.model)}
    assert {tuple(name.split("/")) for name in arrays} == expected
