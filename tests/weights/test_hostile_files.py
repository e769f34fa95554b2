"""Hostile files, made to run code, exhaust memory or read beyond their bytes, are refused."""

import argparse
import pickle
import struct

import numpy as np
import pytest

from maskrcnn_jax.weights import files, pytorch
from tests.weights import pytorch_bytes as build
from tests.weights.hostile import FOUR, assert_refused, tensor

SYSTEM = build.name("os", "system")


def attacks(marker):
    """Makes pickles that create the marker when Python's own unpickler loads them."""
    shell, code = build.text(f"touch {marker}"), build.text(f"open({str(marker)!r}, 'w').close()")
    namespace = build.name("argparse", "Namespace") + b")\x81"
    setstate = build.mapping({"__setstate__": SYSTEM})
    return {
        "reduce": build.call(SYSTEM, shell),
        "reduce posix": build.call(build.name("posix", "system"), shell),
        "reduce eval": build.call(build.name("builtins", "eval"), code),
        "reduce exec": build.call(build.name("builtins", "exec"), code),
        "names on the stack": build.text("os")
        + build.text("system")
        + b"\x93"
        + build.sequence(shell)
        + b"R",
        "dotted name": build.text("os")
        + build.text("path.os.system")
        + b"\x93"
        + build.sequence(shell)
        + b"R",
        "inst": b"(" + shell + b"ios\nsystem\n",
        "obj": b"(" + SYSTEM + shell + b"o",
        "newobj and build": namespace + setstate + b"b" + shell + b"b",
        "newobj with keywords": build.name("argparse", "Namespace")
        + b")}\x92"
        + setstate
        + b"b"
        + shell
        + b"b",
        "build on a dict": build.ORDERED_DICT + setstate + b"b" + shell + b"b",
        "hidden in a value": build.mapping({"x": build.call(SYSTEM, shell), "y": b"N"}),
        "dropped from the stack": build.call(SYSTEM, shell) + b"0}",
    }


@pytest.mark.parametrize("attack", attacks(""))
@pytest.mark.parametrize("place", ["zip", "legacy", "magic", "machine", "keys"])
def test_code_is_not_run(tmp_path, attack, place):
    marker = tmp_path / "marker"
    content = attacks(marker)[attack]
    # Python's own unpickler shows that the attack works.
    pickle.loads(b"\x80\x04" + content + b".")
    assert marker.exists()
    marker.unlink()
    hostile, good = build.protocol2(content), build.protocol2(b"}")
    file = {
        "zip": build.zip_file(content, {}),
        "legacy": build.legacy_file(content, {}),
        "magic": hostile + build.PROTOCOL + build.MACHINE + good + build.protocol2(b"]"),
        "machine": build.MAGIC + build.PROTOCOL + hostile + good + build.protocol2(b"]"),
        "keys": build.legacy_file(b"}", {}, keys=hostile),
    }[place]
    assert_refused(tmp_path, file)
    assert not marker.exists()


def test_a_persistent_id_is_not_code_either(tmp_path):
    module = build.sequence(build.text("module"), SYSTEM, build.text("a"), build.text("b")) + b"Q"
    for identifier in (
        module,
        b"Pmarker\n",
        build.sequence() + b"Q",
        build.storage("0", 1, "system"),
    ):
        assert_refused(tmp_path, build.zip_file(identifier, {}))


def test_our_own_functions_are_out_of_reach(tmp_path):
    rebuild = build.name("torch._utils", "_rebuild_tensor_v2")
    for content in (
        build.name("torch._utils", "_rebuild_tensor_v2.__globals__"),
        rebuild + build.mapping({"__defaults__": build.sequence()}) + b"b",
        rebuild + b"N" + build.mapping({"__defaults__": build.sequence()}) + b"\x86b",
        build.name("torch", "FloatStorage") + b")R",
        rebuild + b")\x81",
        b"\x82\x01",
    ):
        assert_refused(tmp_path, build.zip_file(content, {}))


def test_what_needs_a_class_is_refused_with_a_way_out(tmp_path):
    arguments = pickle.dumps(argparse.Namespace(rate=0.1), 2)[2:-1]
    content = build.mapping({"model": build.mapping({"args": arguments, "x": build.integer(5)})})
    assert_refused(
        tmp_path,
        build.zip_file(content, {"0": FOUR.tobytes()}),
        r"argparse.Namespace.*model.state_dict\(\)",
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"]" * 3_000 + b"a" * 2_999, id="deep list"),
        pytest.param(b"}" + b")" + b"\x85" * 3_000 + b"Ns", id="deep tuple as a key"),
        pytest.param(b"]q\x00h\x00a", id="a list in itself"),
        pytest.param(
            b"]" + b"q\x00(" + b"h\x00" * 9 + b"t" + b"q\x00(h\x00h\x00h\x00t" * 60,
            id="exponential tuples",
        ),
        pytest.param(b"r\xff\xff\xff\xff", id="memo of nothing"),
        pytest.param(b"]r\xff\xff\xff\xff", id="memo far away"),
        pytest.param(b"h\x07", id="memo never stored"),
        pytest.param(b"X\xff\xff\xff\xffabc", id="long text"),
        pytest.param(b"\x8e" + b"\xff" * 7 + b"\x7fabc", id="longer bytes"),
        pytest.param(b"\x96" + b"\xff" * 7 + b"\x7fabc", id="long bytearray"),
        pytest.param(b"\x8b\xff\xff\xff\x7f\x01", id="long integer"),
        pytest.param(b"L" + b"9" * 100_000 + b"L\n", id="long decimal integer"),
        pytest.param(b"a", id="nothing on the stack"),
        pytest.param(b"t", id="no mark"),
        pytest.param(b"(", id="open mark"),
        pytest.param(b"", id="no object"),
        pytest.param(b"}}", id="two objects"),
        pytest.param(b"}(Nu", id="key without value"),
        pytest.param(b"N(NNu", id="None as a dict"),
        pytest.param(b")(Ne", id="tuple as a list"),
        pytest.param(b"\xff", id="no instruction"),
        pytest.param(b"}X\x01\x00\x00\x00xK\x05s", id="number as a tensor"),
        pytest.param(b"}K\x05K\x05s", id="number as a name"),
        pytest.param(b"]", id="list"),
        pytest.param(
            build.call(build.name("collections", "OrderedDict"), b"K\x05"), id="dict of a number"
        ),
        pytest.param(
            build.call(build.name("collections", "OrderedDict"), b"](N]e"), id="dict of no pairs"
        ),
        pytest.param(
            build.call(build.name("torch._utils", "_rebuild_tensor_v2")), id="tensor of nothing"
        ),
        pytest.param(
            build.call(build.name("torch._utils", "_rebuild_parameter"), b"N", b"N", b"N"),
            id="no parameter",
        ),
        pytest.param(
            build.call(build.name("collections", "Counter"), b"K\x05"), id="counter of a number"
        ),
        pytest.param(build.call(build.name("torch", "Size"), b"K\x05"), id="size of a number"),
    ],
)
def test_pickles_that_break_or_fill_an_unpickler(tmp_path, content):
    assert_refused(tmp_path, build.zip_file(content, {}))
    assert_refused(tmp_path, build.legacy_file(content, {}))


@pytest.mark.parametrize(
    "bad, match",
    [
        pytest.param({"offset": 1}, "reaches to element 5", id="offset"),
        pytest.param({"offset": 1 << 62, "shape": (0,)}, "element", id="offset of nothing"),
        pytest.param({"offset": -1}, "natural", id="negative offset"),
        pytest.param({"strides": (-1,), "offset": 3}, "natural", id="negative stride"),
        pytest.param({"shape": (-4,)}, "natural", id="negative size"),
        pytest.param({"strides": (2,)}, "reaches to element 7", id="stride"),
        pytest.param({"shape": (5,)}, "reaches to element 5", id="size"),
        pytest.param(
            {"shape": (1 << 32, 1 << 32), "strides": (1 << 32, 1)},
            "reaches",
            id="sizes that overflow",
        ),
        pytest.param(
            {"shape": (2, 2), "strides": (1 << 63, 1)}, "reaches", id="stride that overflows"
        ),
        pytest.param({"shape": (1 << 62, 0), "strides": (1, 1)}, "sizes", id="huge and empty"),
        pytest.param({"shape": (1 << 40,), "strides": (0,)}, "sizes", id="repeated without bound"),
        pytest.param({"shape": (2, 2)}, "2 axes and 1 strides", id="too few strides"),
        pytest.param({"shape": (1,) * 65, "strides": (1,) * 65}, "65 axes", id="too many axes"),
    ],
)
def test_tensors_beyond_their_storage(tmp_path, bad, match):
    assert_refused(tmp_path, build.zip_file(tensor(**bad), {"0": FOUR.tobytes()}), match)
    assert_refused(tmp_path, build.legacy_file(tensor(**bad), {"0": FOUR}), match)


@pytest.mark.parametrize("num_elements", [0, 3, 5, 1 << 61, 1 << 600, -4])
def test_storages_of_another_size_than_declared(tmp_path, num_elements):
    content = tensor(shape=(0,), num_elements=num_elements)
    assert_refused(tmp_path, build.zip_file(content, {"0": FOUR.tobytes()}))
    assert_refused(tmp_path, build.legacy_file(content, {"0": FOUR}))
    # The number before the storage agrees with the declared one, but the file ends too early.
    declared = struct.pack("<q", min(max(num_elements, 0), 1 << 61))
    if num_elements > 4:
        assert_refused(
            tmp_path,
            build.legacy_file(content, {"0": FOUR}).replace(struct.pack("<q", 4), declared),
        )


def test_storages_that_are_missing_twofold_or_contradictory(tmp_path):
    both = build.mapping(
        {
            name: build.tensor(build.storage("0", 4, kind), (4,), (1,))
            for name, kind in (("x", "FloatStorage"), ("y", "IntStorage"))
        }
    )
    assert_refused(tmp_path, build.zip_file(both, {"0": FOUR.tobytes()}), "declared twice")
    assert_refused(tmp_path, build.zip_file(tensor(), {}), "no record")
    for keys in (b"]", b"](" + build.text("0") * 2 + b"e", b"](K\x00e", b"N"):
        assert_refused(
            tmp_path,
            build.legacy_file(tensor(), {"0": FOUR}, keys=build.protocol2(keys)),
            "storages",
        )


def test_marks_that_change_the_values_of_a_tensor(tmp_path):
    negated = build.tensor(build.storage("0", 4), (4,), (1,), 0, build.mapping({"neg": b"\x88"}))
    assert_refused(
        tmp_path,
        build.zip_file(build.mapping({"x": negated}), {"0": FOUR.tobytes()}),
        "unknown way",
    )


def test_pickles_too_long_for_a_state_dict(tmp_path, monkeypatch):
    monkeypatch.setattr(pytorch, "MAX_PICKLE_BYTES", 1 << 22)
    long = build.mapping({"model": tensor(), "note": build.text("x" * (1 << 22))})
    assert_refused(tmp_path, build.zip_file(long, {"0": FOUR.tobytes()}), "pickle has more than")
    assert_refused(tmp_path, build.legacy_file(long, {"0": FOUR}), "pickle|bytes")


@pytest.mark.parametrize("size", [0, 1, 24, 60, 0.5, 0.9, -1])
def test_truncated_files(tmp_path, size):
    arrays = {"x": np.arange(100, dtype=np.float32), "y": np.ones((2, 3))}
    items = build.mapping(
        {"x": build.tensor(build.storage("0", 4, "FloatStorage", b"N"), (4,), (1,))}
    )
    contents = [build.legacy_file(items, {"0": FOUR})]
    for suffix in files.SUFFIXES:
        files.write(tmp_path / f"w{suffix}", arrays)
        contents.append((tmp_path / f"w{suffix}").read_bytes())
    for content in contents:
        assert_refused(
            tmp_path, content[: int(size * len(content)) if isinstance(size, float) else size]
        )


@pytest.mark.parametrize("kind", ["legacy", *files.SUFFIXES])
def test_damaged_files_are_refused_or_read_but_never_anything_else(tmp_path, kind):
    rng = np.random.default_rng(0)
    path = tmp_path / f"w{kind}"
    if kind == "legacy":
        path.write_bytes(build.legacy_file(tensor(), {"0": FOUR}))
    else:
        files.write(path, {"x": FOUR, "y": np.ones((2, 3))}, {"a": "b"})
    good = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(100):
        bad = good.copy()
        bad[rng.integers(len(bad), size=3)] = rng.integers(256, size=3)
        path.write_bytes(bad.tobytes())
        try:
            files.read(path)
        except ValueError as error:
            refused += str(path) in str(error)
    assert refused > 30
