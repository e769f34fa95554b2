"""Checkpoints as training scripts write them: the state dict is found, and nothing else is read."""

import numpy as np
import pytest

from maskrcnn_jax.weights import files, loading, state_dicts
from tests.test_train import experiment, state_of
from tests.weights import pytorch_bytes as build

VALUES = {"a": np.float32([1, 2, 3]), "b": np.float32([4, 5]), "c": np.float32([6])}
CLASS = build.name("argparse", "Namespace") + b")\x81" + build.mapping({"rate": b"K\x05"}) + b"b"


def tensor(key):
    size = VALUES[key].size
    return build.tensor(build.storage(key, size, "FloatStorage", b"N"), (size,), (1,))


def tensors(*keys):
    return build.mapping({f"layer.{key}": tensor(key) for key in keys}, build.ORDERED_DICT)


def read(tmp_path, items, zipped=True):
    """Reads a checkpoint in which all three storages are used."""
    content = build.mapping(items | {"rest": build.sequence(*map(tensor, VALUES))})
    if zipped:
        storages = {key: x.tobytes() for key, x in VALUES.items()}
        file = build.zip_file(content.replace(b"Nt" + b"Q", b"tQ"), storages)
    else:
        file = build.legacy_file(content, VALUES)
    (tmp_path / "w.pth").write_bytes(file)
    return files.read(tmp_path / "w.pth")


def assert_found(weights, *keys):
    assert list(weights.arrays) == [f"layer.{key}" for key in keys]
    for key in keys:
        np.testing.assert_array_equal(weights.arrays[f"layer.{key}"], VALUES[key])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrapper",
    ["weights", "net", "params", "ema", "model_state", "network", "detector", "module", "x"],
)
def test_any_wrapper(tmp_path, wrapper, zipped):
    items = {
        "epoch": b"K\x05",
        wrapper: tensors("a", "b"),
        "args": CLASS,
        "best": b"G?" + b"\0" * 7,
    }
    weights = read(tmp_path, items, zipped)
    assert_found(weights, "a", "b")
    assert weights.metadata == {}


def test_sets_beside_the_state_dict(tmp_path):
    sets = {"seen": b"\x8f(K\x01K\x02\x90", "frozen": b"(K\x01\x91"}
    assert_found(read(tmp_path, sets | {"model": tensors("a")}), "a")
    (tmp_path / "w.pth").write_bytes(build.zip_file(b"}(K\x01\x90", {}))
    with pytest.raises(ValueError, match="fills a dict like a Opaque"):
        files.read(tmp_path / "w.pth")


def test_wrappers_in_wrappers(tmp_path):
    inner = build.mapping({"state_dict": tensors("a"), "decay": b"K\x01"})
    weights = read(tmp_path, {"state": build.mapping({"ema": inner, "step": b"K\x07"})})
    assert_found(weights, "a")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: build.sequence(b"K\x05", model, b"G?" + b"\0" * 7),
        lambda model: b"(" + model + build.mapping({"state": b"}", "param_groups": b"]"}) + b"t",
        lambda model: build.mapping({"models": build.sequence(model), "epoch": b"K\x05"}),
    ],
    ids=["list", "tuple", "list in a dictionary"],
)
def test_lists_round_the_state_dict(tmp_path, wrap):
    content = wrap(tensors("a")).replace(b"Nt" + b"Q", b"tQ")
    storages = {"a": VALUES["a"].tobytes()}
    (tmp_path / "w.pth").write_bytes(build.zip_file(content, storages))
    assert_found(files.read(tmp_path / "w.pth"), "a")


def test_of_several_networks_in_a_list_the_report_names_the_rest(tmp_path):
    weights = read(tmp_path, {"nets": build.sequence(tensors("c"), tensors("a", "b"))})
    assert_found(weights, "a", "b")
    said = "taken: 2 tensors in 'nets.1'; not taken: 1 tensors in 'nets.0'"
    assert weights.metadata[state_dicts.TAKEN] == said


def test_the_optimizer_is_not_taken_for_the_model(tmp_path):
    by_number = build.mapping({"state": b"}K\x00" + tensors("a", "b", "c") + b"s"})
    by_name = build.mapping({"state": tensors("a", "b", "c")})
    items = {"optimizer": by_number, "optim_g": by_name, "lr_scheduler": tensors("a", "b", "c")}
    assert_found(read(tmp_path, items | {"net": tensors("b")}), "b")


@pytest.mark.parametrize(
    "others, taken, keys",
    [
        ({"model_ema": ("a", "b", "c"), "model": ("a", "b")}, "model", ("a", "b")),
        ({"ema_state_dict": ("a", "b", "c"), "net": ("a", "b")}, "net", ("a", "b")),
        ({"teacher": ("a", "b"), "student": ("a", "b")}, "student", ("a", "b")),
        ({"head": ("a",), "detector": ("a", "b")}, "detector", ("a", "b")),
        ({"net": ("a", "b", "c"), "state_dict": ("b",)}, "state_dict", ("b",)),
        ({"swa": ("a", "b"), "average": ("c",)}, "swa", ("a", "b")),
    ],
)
def test_of_several_one_is_taken_and_named(tmp_path, others, taken, keys):
    weights = read(tmp_path, {name: tensors(*each) for name, each in others.items()})
    assert_found(weights, *keys)
    (rest,) = others.keys() - {taken}
    said, not_taken = weights.metadata[state_dicts.TAKEN].split("; ")
    assert said == f"taken: {len(keys)} tensors in {taken!r}"
    assert not_taken == f"not taken: {len(others[rest])} tensors in {rest!r}"


def test_an_average_under_a_usual_name_comes_last_too(tmp_path):
    average = build.mapping({"state_dict": tensors("a", "b", "c")})
    assert_found(read(tmp_path, {"ema": average, "net": tensors("a", "b")}), "a", "b")


def test_one_dictionary_under_two_names_is_one(tmp_path):
    twice = build.mapping({"net": tensors("a") + b"q\x09", "same": b"h\x09"})
    weights = read(tmp_path, {"both": twice})
    assert_found(weights, "a")
    assert weights.metadata == {}


def test_numbers_and_objects_among_the_tensors_are_left_out(tmp_path):
    others = {"epoch": b"K\x05", "note": build.text("x"), "args": CLASS}
    assert_found(read(tmp_path, {"layer.a": tensor("a")} | others), "a")


def test_tensors_beside_the_state_dict_do_not_count(tmp_path):
    items = {"best_acc": tensor("c"), "state_dict": tensors("a", "b")}
    weights = read(tmp_path, items)
    assert_found(weights, "a", "b")
    assert "not taken: 1 tensors outside of all" in weights.metadata[state_dicts.TAKEN]


def test_an_object_in_the_place_of_a_tensor_is_refused(tmp_path):
    inner = build.mapping({"layer.a": tensor("a"), "layer.b": CLASS})
    with pytest.raises(ValueError, match=r"argparse.Namespace.*model.state_dict\(\)"):
        read(tmp_path, {"model": inner})


def test_no_tensors_at_all(tmp_path):
    content = build.mapping({"epoch": b"K\x05", "model": build.mapping({"x": b"N"})})
    (tmp_path / "w.pth").write_bytes(build.zip_file(content, {}))
    with pytest.raises(ValueError, match="tensors by name, but 'epoch' is a int, 'model' is a di"):
        files.read(tmp_path / "w.pth")


def test_the_report_says_what_was_taken(tmp_path, monkeypatch):
    config = experiment()
    state, told = state_of(config.model), "taken: 3 tensors in 'model'; not taken: 3 in 'ema'"
    monkeypatch.setattr(files, "read", lambda _: files.WeightFile(state, {state_dicts.TAKEN: told}))
    (tmp_path / "w.pth").write_bytes(b"read by the stand-in")
    assert told in str(loading.load(tmp_path / "w.pth").report)
