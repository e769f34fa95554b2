"""The unpickler that reads a pickle as data: its opcodes, names, calls and bounds."""

import io
import pickle

import pytest

from maskrcnn_jax.weights import restricted_pickle
from maskrcnn_jax.weights.restricted_pickle import (
    FOR_ARRAYS,
    FOR_CHECKPOINTS,
    BoundedFile,
    Opaque,
    RestrictedUnpickler,
)
from tests.weights import pytorch_bytes as build

FUNCTIONS = {"collections.OrderedDict": lambda arguments: dict(*arguments), "torch.float32": None}


def load(content, persistent=None, **options):
    unpickler = RestrictedUnpickler(FUNCTIONS, persistent, **options)
    return unpickler.load(BoundedFile(io.BytesIO(content)))


VALUES = [
    *(None, True, False, 0, 255, 65_535, -(2**31), 2**70, 1.5, "text \u00e9", b"bytes"),
    *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], [1, 2], {}, {"a": 1}, {1: 2, None: 3}),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(protocol):
    text = "twice"  # The second one is loaded from the memo.
    # Bytes are calls of a function before protocol 3.
    values = [value for value in VALUES if protocol > 2 or type(value) is not bytes]
    values += [text, text]
    found = load(pickle.dumps(values, protocol), opcodes=FOR_ARRAYS)
    assert found == values and list(map(type, found)) == list(map(type, values))


def test_text_of_python_2_is_text_or_bytes():
    content = build.protocol2(b"U\x02\xe9b")
    assert load(content) == "\xe9b" and load(content, decodes_text=False) == b"\xe9b"
    line = b"S'\\xe9\\n\\'\\101'\n."
    assert load(line, opcodes=FOR_ARRAYS, decodes_text=False) == b"\xe9\n'A"


def test_allowed_functions_are_called_and_names_are_not():
    pair = build.sequence(build.text("a") + b"K\x01")
    content = build.call(build.name("collections", "OrderedDict"), b"](" + pair + b"e")
    assert load(build.protocol2(content)) == {"a": 1}
    name = build.name("torch", "float32")
    assert load(build.protocol2(name)).text == "torch.float32"
    on_the_stack = build.text("torch") + build.text("float32") + b"\x93"
    assert load(b"\x80\x04" + on_the_stack + b".").text == "torch.float32"
    for call in (name + b")R", name + b")\x81", b"K\x01)R", b"})R"):
        with pytest.raises(ValueError, match="calls what is not a function|instruction NEWOBJ"):
            load(build.protocol2(call))
    call = build.name("collections", "OrderedDict")
    for no_reduction in (call + b"NR", call + b")\x81"):
        with pytest.raises(ValueError, match="calls what is not a function"):
            load(build.protocol2(no_reduction), opcodes=FOR_CHECKPOINTS)


def test_other_names_are_refused_or_stand_for_themselves():
    content = build.protocol2(build.call(build.name("os", "system"), build.text("true")))
    with pytest.raises(ValueError, match="needs os.system, which is never loaded"):
        load(content)
    unpickler = RestrictedUnpickler({}, None, has_opaque=True)
    assert unpickler.load(BoundedFile(io.BytesIO(content))) == Opaque("os.system")
    assert unpickler.opaque == ["os.system"]


def test_what_fills_an_opaque_object_is_skipped():
    system = build.name("os", "system")
    for fill in (b"K\x01a", b"(K\x01K\x02e", b"K\x01K\x02s", b"(K\x01K\x02u", b"}b"):
        found = load(build.protocol2(system + fill), has_opaque=True)
        assert found == Opaque("os.system")
    sets = b"\x80\x04\x8f(K\x01\x90(K\x01\x91\x86."
    assert load(sets, opcodes=FOR_CHECKPOINTS) == (Opaque("set"), Opaque("frozenset"))
    with pytest.raises(ValueError, match="fills a int like a Opaque"):
        load(b"\x80\x04K\x05(K\x01\x90.", opcodes=FOR_CHECKPOINTS)


def test_containers_are_filled_by_their_own_instructions_only():
    for content, message in (
        (b"}K\x01a", "fills a dict like a list"),
        (b"]K\x01K\x02s", "fills a list like a dict"),
        (b"]}b", "fills a list like a dict"),  # A state for something other than an object.
        (b"}]K\x01s", "a list as a key"),
        (b"})K\x01s", "a tuple as a key"),
        (b"}(K\x01u", "shorter|argument"),
    ):
        with pytest.raises(ValueError, match=message):
            load(build.protocol2(content))


def test_an_object_may_take_its_state():
    class Holder:
        def set_state(self, state):
            self.state = state

    unpickler = RestrictedUnpickler({"a.Holder": lambda arguments: Holder()}, None)
    content = build.protocol2(build.call(build.name("a", "Holder")) + b"K\x07b")
    assert unpickler.load(BoundedFile(io.BytesIO(content))).state == 7


def test_persistent_ids_are_resolved_by_the_caller():
    content = build.protocol2(build.text("7") + b"Q")
    assert load(content, persistent=lambda key: ("storage", key)) == ("storage", "7")
    with pytest.raises(ValueError, match="refers to something outside"):
        load(content)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the pickle is cut short"),
        (b"\x80\x02}", "the pickle is cut short"),
        (b"\x80\x02}}.", "ends inside a container"),
        (b"\x80\x02}(.", "ends inside a container"),
        (b"\x80\x02.", "ends inside a container"),
        (b"\x80\x02a.", "takes more from its stack than there is"),
        (b"\x80\x02t.", "takes more from its stack than there is"),
        (b"\x80\x02h\x07.", "asks for memo 7, which it never stored"),
        (b"\x80\x02C\x05abc", "is cut short: 5 bytes are to come, 3 do"),
        (b"\x80\x02I1\n.", "the instruction INT, which no state dict needs"),
        (b"\xff.", r"the instruction b'\\xff'"),
    ],
)
def test_broken_pickles(content, message):
    with pytest.raises(ValueError, match=message):
        load(content)


def test_too_many_instructions(monkeypatch):
    monkeypatch.setattr(restricted_pickle, "MAX_OPCODES", 1000)
    assert len(load(build.protocol2(b"]" + b"Na" * 498))) == 498  # And PROTO, EMPTY_LIST, STOP.
    with pytest.raises(ValueError, match="more than 1000 instructions"):
        load(build.protocol2(b"]" + b"Na" * 499))


def test_a_file_is_read_from_its_place_to_its_limit():
    file = io.BytesIO(b"before0123456789\nafter")
    file.seek(6)
    bounded = BoundedFile(file, limit=16)
    assert bounded.read(4) == b"0123" and bounded.readline() == b"456789\n"
    assert bounded.read(5) == b"after"
    with pytest.raises(ValueError, match="more bytes than a state dict needs"):
        file.seek(0)
        BoundedFile(file, limit=15).read(16)
    file.seek(0)
    assert BoundedFile(file).read(1 << 62) == file.getvalue()  # Only what is there.


def test_one_pickle_follows_another():
    file = BoundedFile(io.BytesIO(pickle.dumps(1, 2) + pickle.dumps([2], 2)))
    found = [RestrictedUnpickler({}, None).load(file) for _ in range(2)]
    assert found == [1, [2]]
