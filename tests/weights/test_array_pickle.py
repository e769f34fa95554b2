"""Pickles of arrays by name: every protocol and origin is read, hostile and broken ones are not."""

import io
import pickle
import pickletools
import struct

import ml_dtypes
import numpy as np
import pytest

from maskrcnn_jax.weights import array_pickle, files
from tests.weights import pytorch_bytes as build
from tests.weights.test_hostile_files import attacks

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "half": np.array([1.5, -2], np.float16),
    "counter": np.array(7, np.int64),
    "big": np.arange(3, dtype=">f4"),
    "empty": np.zeros((0, 3), np.float32),
    "bytes": np.array([0, 10, 13, 34, 39, 92, 127, 128, 200, 255], np.uint8),
    "flags": np.array([True, False]),
}
ROOTS = {
    "model": {"model": ARRAYS, "__author__": "Detectron2 Model Zoo"},
    "suffixes": {"model": ARRAYS, "__author__": "torchvision", "matching_heuristics": True},
    "blobs": {"blobs": ARRAYS, "cfg": "MODEL:\n  TYPE: generalized_rcnn\n"},
    "flat": ARRAYS,
}


def read(tmp_path, content):
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    return files.read(path)


def assert_equal(arrays, expected=ARRAYS):
    assert list(arrays) == list(expected)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ROOTS)
def test_every_protocol_and_wrapper(tmp_path, kind, protocol):
    arrays, about = read(tmp_path, pickle.dumps(ROOTS[kind], protocol))
    assert_equal(arrays)
    assert about == {array_pickle.KIND: kind}


@pytest.mark.parametrize("protocol", range(6))
def test_both_spellings_of_numpys_modules(tmp_path, protocol):
    """NumPy 1 calls its modules numpy.core, NumPy 2 numpy._core."""
    file = io.BytesIO()
    pickle._Pickler(file, protocol).dump(ROOTS["model"])
    content = file.getvalue()
    assert b"numpy._core" in content
    if protocol < 4:
        old = content.replace(b"numpy._core", b"numpy.core")
    else:  # The text has its length before it; frames would be one byte too long.
        old = _without_frames(content)
        for module in (b"multiarray", b"numeric"):
            new_name, old_name = b"numpy._core." + module, b"numpy.core." + module
            old = old.replace(bytes([len(new_name)]) + new_name, bytes([len(old_name)]) + old_name)
    assert b"numpy._core" not in old
    assert_equal(read(tmp_path, old).arrays)


def _without_frames(content):
    out, previous = b"", None
    for opcode, _, position in pickletools.genops(content):
        if previous is not None:
            out += content[previous:position]
        previous = None if opcode.name == "FRAME" else position
    return out + content[previous:]


def python2(arrays, protocol):
    """Pickles float32 arrays by name as Python 2's cPickle does; its text is bytes."""

    def text(value):
        value = value.encode("latin-1") if isinstance(value, str) else value
        if protocol == 0:
            return b"S" + repr(value)[1:].encode("ascii") + b"\n"
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value):
        return b"I%d\n" % value if protocol == 0 else b"J" + struct.pack("<i", value)

    def sequence(*items):
        return b"(" + b"".join(items) + b"t"

    dtype = build.name("numpy", "dtype") + sequence(text("f4"), integer(0), integer(1)) + b"R"
    dtype += sequence(integer(3), text("<"), b"NNN", *[integer(x) for x in (-1, -1, 0)])
    dtype += b"b"
    items = b""
    for name, array in arrays.items():
        made = build.name("numpy.core.multiarray", "_reconstruct")
        made += sequence(build.name("numpy", "ndarray"), sequence(integer(0)), text("b")) + b"R"
        shape = sequence(*(integer(x) for x in array.shape))
        is_fortran = b"I00\n" if protocol == 0 else b"\x89"
        state = sequence(integer(1), shape, dtype, is_fortran, text(array.tobytes()))
        items += text(name) + made + state + b"b" + b"s"
    start = {0: b"(dp1\n", 1: b"}q\x01", 2: b"\x80\x02}q\x01"}[protocol]
    return start + items + b"."


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_files_of_python_2(tmp_path, protocol):
    arrays = {"conv1_w": ARRAYS["a.weight"], "r\xe9s": np.linspace(-3, 3, 99, dtype=np.float32)}
    content = python2(arrays, protocol)
    theirs = pickle.loads(content, encoding="latin1")  # The stand-in for Python 2 is right.
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
    assert_equal(read(tmp_path, content).arrays, arrays)


def test_arrays_share_the_memory_of_what_was_read(tmp_path):
    for protocol in (3, 4, 5):
        arrays, _ = read(tmp_path, pickle.dumps({"x": np.arange(5.0)}, protocol))
        assert isinstance(arrays["x"].base, bytes | np.ndarray) and not arrays["x"].flags.owndata


def test_one_array_with_two_names_stays_one(tmp_path):
    x = np.arange(4, dtype=np.float32)
    arrays, _ = read(tmp_path, pickle.dumps({"a": x, "b": x}, 2))
    assert arrays["a"] is arrays["b"]


def array(shape=b"(K\x04t", dtype=None, content=b"C\x10" + bytes(16), order=b"\x89"):
    """The pickle of an array, part by part."""
    dtype = plain_dtype() if dtype is None else dtype
    made = build.call(
        build.name("numpy.core.multiarray", "_reconstruct"),
        build.name("numpy", "ndarray"),
        b"(K\x00t",
        b"C\x01b",
    )
    return made + b"(K\x01" + shape + dtype + order + content + b"tb"


def plain_dtype(text=b"f4", order=b"<"):
    made = build.call(build.name("numpy", "dtype"), b"U" + bytes([len(text)]) + text, b"\x89\x88")
    numbers = 2 * b"J\xff\xff\xff\xff" + b"K\x00"
    return made + b"(K\x03U" + bytes([len(order)]) + order + b"NNN" + numbers + b"tb"


def encoded(content, encoding):
    """Bytes as Python 3 writes them for protocols without bytes."""
    return build.call(build.name("_codecs", "encode"), build.text(content), build.text(encoding))


UNNAMED_DTYPE = build.call(build.name("numpy", "dtype"))
BYTES_OF_A_NUMBER = build.call(build.name("builtins", "bytes"), b"K\x10")
TORCH_TENSOR = build.name("torch._utils", "_rebuild_tensor_v2")


def named(value):
    return b"}" + build.text("x") + value + b"s"


def frombuffer(content=b"C\x10" + bytes(16), shape=b"(K\x04t", order=b"U\x01C"):
    made = build.name("numpy._core.numeric", "_frombuffer")
    return build.call(made, content, plain_dtype(), shape, order)


def test_the_parts_make_an_array(tmp_path):
    for content in (array(), frombuffer()):
        arrays, _ = read(tmp_path, build.protocol2(named(content)))
        np.testing.assert_array_equal(arrays["x"], np.zeros(4, np.float32))


BROKEN = {
    "too few bytes": (named(array(shape=b"(K\x05t")), r"16 bytes, expected \(5,\) x 4"),
    "too many bytes": (named(array(shape=b"(K\x03t")), r"16 bytes, expected \(3,\) x 4"),
    "a huge shape": (named(array(shape=build.integers(1 << 40, 1 << 40))), "16 bytes, expected"),
    "an empty huge shape": (named(array(shape=build.integers(1 << 62, 0))), "16 bytes, expected"),
    "a negative size": (named(array(shape=build.integers(-2, -2))), "natural"),
    "a size that is a truth value": (named(array(shape=b"(\x88K\x04t")), "natural"),
    "too many axes": (named(array(shape=build.integers(*[1] * 65))), "natural"),
    "a shape that is a list": (named(array(shape=b"](K\x04e")), "unknown way"),
    "no state": (named(array().rpartition(b"(K\x01")[0]), "'x' is a _Array"),
    "a state that is no tuple": (named(array().rpartition(b"(K\x01")[0] + b"Nb"), "unknown way"),
    "a short state": (named(array().rpartition(b"(K\x01")[0] + b"(K\x01tb"), "unknown way"),
    "text as content": (named(array(content=build.text("x" * 16))), "is a str, expected bytes"),
    "objects": (named(array(dtype=plain_dtype(b"O8"))), "dtype 'O8', expected numbers"),
    "text": (named(array(dtype=plain_dtype(b"S4"))), "dtype 'S4', expected numbers"),
    "dates": (named(array(dtype=plain_dtype(b"M8"))), "dtype 'M8', expected numbers"),
    "complex numbers": (named(array(dtype=plain_dtype(b"c8"))), "dtype 'c8', expected numbers"),
    "raw memory": (named(array(dtype=plain_dtype(b"V4"))), "dtype 'V4', expected numbers"),
    "floats of no size": (named(array(dtype=plain_dtype(b"f3"))), "dtype 'f3'"),
    "a dtype of several": (named(array(dtype=plain_dtype(b"f4,f4"))), "dtype 'f4,f4'"),
    "a dtype without a name": (named(array(dtype=UNNAMED_DTYPE)), "nothing"),
    "a byte order": (named(array(dtype=plain_dtype(order=b"?"))), "a dtype in an unknown way"),
    "a dtype as an array": (named(plain_dtype()), "'x' is a _DType"),
    "an array as a dtype": (named(array(dtype=array())), "unknown way"),
    "no class of an array": (
        named(build.call(build.name("numpy.core.multiarray", "_reconstruct"), b"N", b")", b"N")),
        "makes an array in an unknown way",
    ),
    "a dtype that is called": (named(plain_dtype() + b")R"), "not a function"),
    "the class of arrays called": (named(build.name("numpy", "ndarray") + b")R"), "not a function"),
    "a buffer in no order": (named(frombuffer(order=b"U\x01A")), "unknown way"),
    "a short buffer": (named(frombuffer(shape=b"(K\x05t")), "16 bytes, expected"),
    "a buffer of an array": (named(frombuffer(content=array())), "is a _Array, expected bytes"),
    "an encoding": (
        named(array(content=encoded("x" * 16, "utf-16"))),
        "encodes text in an unknown way",
    ),
    "text that is no latin-1": (
        named(array(content=encoded("\u0100" * 16, "latin1"))),
        "latin-1",
    ),
    "bytes of a number": (named(array(content=BYTES_OF_A_NUMBER)), "makes bytes"),
    "a persistent id": (named(b"NQ"), "outside of it"),
    "a tensor of torch": (named(TORCH_TENSOR), "needs torch._utils._rebuild_tensor_v2"),
    "another function of numpy": (named(build.name("numpy", "load")), "needs numpy.load"),
    "a function of pickle": (named(build.name("pickle", "loads")), "needs pickle.loads"),
    "a file to open": (named(build.name("builtins", "open")), "needs builtins.open"),
    "an extension": (b"\x82\x01", "instruction EXT1"),
    "a buffer outside": (b"\x97", "instruction NEXT_BUFFER"),
    "a number": (b"K\x05", "a pickle of a int"),
    "a list": (b"]", "a pickle of a list"),
    "nothing": (b"}", "it is empty"),
    "a number by name": (named(b"K\x05"), "'x' is a int"),
    "a number as a name": (b"}K\x05" + array() + b"s", "the key '5'"),
    "a tuple as a name": (b"})" + array() + b"s", "a tuple as a key"),
    "no arrays in the model": (b"}" + build.text("model") + b"}s", "it is empty"),
    "a list in the model": (b"}" + build.text("model") + named(b"]") + b"s", "'x' is a list"),
    "an odd dict": (b"(" + build.text("x") + b"d", "shorter|argument"),
    "a memo of nothing": (b"g7\n", "memo 7"),
    "a deep tuple": (b"]" + b"\x85" * 5_000, "a pickle of a tuple"),
    "exponential tuples": (b"]q\x00" + b"(h\x00h\x00tq\x00" * 60, "ends inside a container"),
    "text without quotes": (b"Sx\n", "without quotes"),
    "text with an unknown escape": (b"S'a\\q'\n", "unknown escape"),
    "text with a large octal number": (b"S'\\777'\n", "unknown escape"),
    "a number too long": (b"L" + b"9" * 100_000 + b"L\n", "digits|integer"),
    "pop from nothing": (b"00", "than there is"),
    "no mark": (b"1", "than there is"),
    "dup of nothing": (b"2", "than there is"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_and_hostile_files_are_refused_by_name(tmp_path, case):
    content, match = BROKEN[case]
    with pytest.raises(ValueError, match=rf"w\.pkl cannot be read as weights: .*({match})"):
        read(tmp_path, build.protocol2(content))


@pytest.mark.parametrize("attack", attacks(""))
def test_nothing_in_a_file_is_run(tmp_path, attack):
    marker = tmp_path / "marker"
    content = attacks(marker)[attack]
    pickle.loads(b"\x80\x04" + content + b".")  # Python's own unpickler runs it.
    assert marker.exists()
    marker.unlink()
    for hostile in (content, named(content), b"}" + build.text("model") + named(content) + b"s"):
        with pytest.raises(ValueError, match=r"w\.pkl"):
            read(tmp_path, build.protocol2(hostile))
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"T\xff\xff\xff\x7fabc", b"B\xff\xff\xff\xffabc", b"\x8e" + b"\xff" * 8 + b"abc"]
    + [b"\x96" + b"\xff" * 7 + b"\x7fabc", b"X\xff\xff\xff\xffabc", b"\x8d" + b"\xff" * 8 + b"abc"],
)
def test_declared_lengths_allocate_nothing(tmp_path, content):
    with pytest.raises(ValueError, match=r"w\.pkl"):
        read(tmp_path, b"\x80\x04" + content)


def test_more_bytes_after_the_pickle(tmp_path):
    with pytest.raises(ValueError, match="more bytes after its pickle"):
        read(tmp_path, pickle.dumps(ROOTS["model"], 2) + b"x")


@pytest.mark.parametrize("protocol", range(6))
def test_truncated_and_damaged_files(tmp_path, protocol):
    good = pickle.dumps(ROOTS["model"], protocol)
    for size in (1, 20, len(good) // 2, len(good) - 1):
        with pytest.raises(ValueError, match=r"w\.pkl"):
            read(tmp_path, good[:size])
    random, refused = np.random.default_rng(protocol), 0
    for _ in range(30):
        bad = np.frombuffer(good, np.uint8).copy()
        bad[random.integers(len(bad), size=3)] = random.integers(256, size=3)
        try:
            read(tmp_path, bad.tobytes())
        except ValueError as error:
            refused += "w.pkl" in str(error)
    assert refused > 9


def test_what_is_written_is_read_by_pickle_and_here(tmp_path):
    state = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(-7),
        "empty": np.zeros((0, 3), np.float16),
        "flag": np.array([True, False]),
    }
    files.write(tmp_path / "w.pkl", state)
    for found in (
        pickle.loads((tmp_path / "w.pkl").read_bytes(), encoding="latin1")["model"],
        files.read(tmp_path / "w.pkl").arrays,
    ):
        assert found.keys() == state.keys()
        for name, array in state.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="x is an array of bfloat16"):
        files.write(tmp_path / "x.pkl", {"x": np.zeros(1, ml_dtypes.bfloat16)})
    assert not (tmp_path / "x.pkl").exists()
