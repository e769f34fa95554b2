"""Reads a pickle as data only: containers, numbers, text, and calls of allowed functions.

Python's own unpickler calls any function that a file names. This unpickler accepts only the opcodes
that weights need. A class or function in the file is only a name, which is looked up in the
caller's table and never imported, so a file cannot call, create or change anything else.
"""

import codecs
import io
import pickletools
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

PUSHED = {  # Opcodes that push their argument.
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE"),
}
# Opcodes with a block of bytes, and the size of the length before it.
BLOCKS = {
    **{"SHORT_BINSTRING": 1, "BINSTRING": 4},
    **{"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8},
}
TEXT_OF_PYTHON_2 = ("SHORT_BINSTRING", "BINSTRING", "STRING")
LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NEW = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Opcodes of the text protocol 0, which nothing but old pickles of arrays needs.
PROTOCOL_0 = {
    *("INT", "LONG", "FLOAT", "STRING", "UNICODE", "PUT", "GET"),
    *("LIST", "DICT", "POP", "POP_MARK", "DUP"),
}
KNOWN = {
    *(PUSHED - PROTOCOL_0 - {"BINBYTES8", "BYTEARRAY8"}),
    *LITERALS,
    *NEW,
    *TUPLES,
    *("PROTO", "FRAME", "STOP", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("MARK", "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
}
FOR_ARRAYS = KNOWN | PROTOCOL_0 | {"BINBYTES8", "BYTEARRAY8"}
SETS = {"EMPTY_SET", "ADDITEMS", "FROZENSET"}  # Their members are skipped.
FOR_CHECKPOINTS = KNOWN | SETS | {"BINBYTES8", "BYTEARRAY8", "NEWOBJ", "NEWOBJ_EX"}
# A detector takes some 50,000. Each may make an object of about a hundred bytes.
MAX_OPCODES = 1 << 20
# The letters that Python writes after a backslash. Others would be decoded with a warning.
_ESCAPES = re.compile(rb"\\(?:[\\'\"nrtabfv\n]|x[0-9a-fA-F]{2}|[0-3][0-7]{2}|[0-7]{1,2}(?![0-7]))")
OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
# Allowed types of keys. Hashing a deeply nested tuple would overflow the stack.
KEYS = (str, int, float, bytes, type(None))


class Name(NamedTuple):
    """The full name of a class or function, such as ``torch.FloatStorage``."""

    text: str


class Opaque(NamedTuple):
    """Stands for an object of a class or function that is not allowed. It is never made."""

    text: str  # The full name of the class or function.


class BoundedFile:
    """A file from its position on, which allocates no more than the bytes that are left.

    Args:
        file: The file; its position moves.
        limit: Raises ValueError when more than these bytes are read; None for the whole file.
    """

    def __init__(self, file: BinaryIO | io.BytesIO, limit: int | None = None) -> None:
        position = file.tell()
        self._file, self._left = file, file.seek(0, 2) - position
        self._allowed = self._left if limit is None else limit
        file.seek(position)

    def read(self, size: int, /) -> bytes:
        """Reads the bytes, or as many as there are."""
        return self._count(self._file.read(min(size, self._left, self._allowed + 1)))

    def readline(self) -> bytes:
        """Reads up to the next line break and including it."""
        return self._count(self._file.readline(self._allowed + 1))

    def _count(self, content: bytes) -> bytes:
        self._left -= len(content)
        self._allowed -= len(content)
        if self._allowed < 0:
            raise ValueError("the pickle has more bytes than a state dict needs")
        return content


class RestrictedUnpickler:
    """A stack machine that reads one pickle.

    Args:
        functions: The functions that a file may call, by full name; None for names that a file may
            use but not call. A function gets the tuple of arguments from the file and must check
            it, because a file may pass anything. It may return an object with a method
            ``set_state``, which gets the state that the file gives to the object.
        persistent_load: The function that resolves persistent ids; None if there may be none.
        opcodes: The names of the accepted opcodes.
        has_opaque: Whether other names are accepted, as `Opaque` objects. What the file does with
            them is skipped. `opaque` lists their names.
        decodes_text: Whether text of Python 2 becomes a string, by latin-1; otherwise bytes.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[tuple], Any] | None],
        persistent_load: Callable[[Any], Any] | None,
        *,
        opcodes: set[str] = KNOWN,
        has_opaque: bool = False,
        decodes_text: bool = True,
    ) -> None:
        self._functions = functions
        self._persistent_load = persistent_load
        self._opcodes, self._has_opaque, self._decodes_text = opcodes, has_opaque, decodes_text
        self.opaque: list[str] = []
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # The part of the stack below each mark.
        self._memo: dict[int, Any] = {}

    def load(self, file: BoundedFile) -> Any:
        """Reads one pickle; the position of the file is then behind the pickle.

        Raises:
            ValueError: The pickle is damaged, or needs an opcode or name that is not allowed.
        """
        try:
            for _ in range(MAX_OPCODES):
                opcode = self._read_opcode(file)
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, self._read_argument(file, opcode))
            else:
                raise ValueError(f"the pickle has more than {MAX_OPCODES} instructions")
        except IndexError as error:
            raise ValueError("the pickle takes more from its stack than there is") from error
        if self._below or len(self._stack) != 1:
            raise ValueError("the pickle ends inside a container")
        return self._stack[0]

    def _step(self, opcode: str, argument: Any) -> None:
        """Executes one opcode."""
        if self._push(opcode, argument) or self._remember(opcode, argument):
            return
        if not self._fill(opcode):
            self._call(opcode, argument)

    def _push(self, opcode: str, argument: Any) -> bool:
        """Executes an opcode that pushes a value. Returns False for other opcodes."""
        if opcode in PUSHED:
            self._stack.append(argument)
        elif opcode in LITERALS:
            self._stack.append(LITERALS[opcode])
        elif opcode in NEW:
            self._stack.append(NEW[opcode]())
        else:
            return False
        return True

    def _remember(self, opcode: str, argument: Any) -> bool:
        """Executes an opcode that stores or loads a memo. Returns False for other opcodes."""
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                if argument not in self._memo:
                    raise ValueError(f"the pickle asks for memo {argument}, which it never stored")
                self._stack.append(self._memo[argument])
            case _:
                return False
        return True

    def _fill(self, opcode: str) -> bool:
        """Executes an opcode that fills a container. Returns False for other opcodes."""
        match opcode:
            case "MARK":
                self._below.append(self._stack)
                self._stack = []
            case "TUPLE" | "LIST" | "DICT":
                items = self._pop_to_mark()
                self._stack.append(_collected(opcode, items))
            case "EMPTY_SET":
                self._stack.append(Opaque("set"))
            case "ADDITEMS" | "FROZENSET":
                self._pop_to_mark()
                if opcode == "FROZENSET":
                    self._stack.append(Opaque("frozenset"))
                self._top(Opaque)
            case "POP":
                self._pop(1)
            case "POP_MARK":
                self._pop_to_mark()
            case "DUP":
                self._stack.append(self._stack[-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._pop(TUPLES[opcode])))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
                if not isinstance(self._stack[-1], Opaque):
                    self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
                if not isinstance(self._stack[-1], Opaque):
                    self._top(dict).update(dictionary(zip(items[::2], items[1::2], strict=True)))
            case _:
                return False
        return True

    def _call(self, opcode: str, argument: Any) -> None:
        """Executes an opcode that refers to a name, a function or a persistent id."""
        match opcode:
            case "GLOBAL":
                self._stack.append(self._name(argument))
            case "STACK_GLOBAL":
                module, name = self._pop(2)
                is_text = type(module) is type(name) is str
                self._stack.append(self._name(f"{module}.{name}" if is_text else "an object"))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._pop(2)
                self._stack.append(self._result(function, arguments, opcode))
            case "NEWOBJ_EX":
                function, arguments, _ = self._pop(3)
                self._stack.append(self._result(function, arguments, opcode))
            case "BUILD":
                (state,) = self._pop(1)
                self._set_state(self._stack[-1], state)
            case "BINPERSID":
                if self._persistent_load is None:
                    raise ValueError("the pickle refers to something outside of it")
                self._stack.append(self._persistent_load(self._pop(1)[0]))

    def _result(self, function: Any, arguments: Any, opcode: str) -> Any:
        """Calls a function of the table; does nothing for an opaque one."""
        if isinstance(function, Opaque):
            return function
        call = self._functions[function.text] if isinstance(function, Name) else None
        if call is None or type(arguments) is not tuple or opcode != "REDUCE":
            raise ValueError("the pickle calls what is not a function")
        return call(arguments)

    def _set_state(self, target: Any, state: Any) -> None:
        if hasattr(target, "set_state"):
            target.set_state(state)
        elif not isinstance(target, Opaque):
            # Ignore attributes of an OrderedDict, such as the _metadata of a state dict.
            self._top(dict)

    def _name(self, text: str) -> Name | Opaque:
        if text not in self._functions and self._has_opaque:
            self.opaque.append(text[:100])
            return Opaque(text[:100])
        if text not in self._functions:
            raise ValueError(refusal(text))
        return Name(text)

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(
                f"the pickle fills a {type(self._stack[-1]).__name__} like a {kind.__name__}"
            )
        return self._stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _read_opcode(self, file: BoundedFile) -> pickletools.OpcodeInfo:
        code = file.read(1)
        if not code:
            raise ValueError("the pickle is cut short")
        if code not in OPCODES or OPCODES[code].name not in self._opcodes:
            wanted = OPCODES[code].name if code in OPCODES else repr(code)
            raise ValueError(f"the pickle has the instruction {wanted}, which no state dict needs")
        return OPCODES[code]

    def _read_argument(self, file: BoundedFile, opcode: pickletools.OpcodeInfo) -> Any:
        if opcode.name in BLOCKS:
            argument = _read_block(file, BLOCKS[opcode.name])
        elif opcode.name == "STRING":
            argument = _unescaped(file.readline())
        elif opcode.name == "GLOBAL":
            # It has two lines. pickletools would interpret escapes in them, unlike Python.
            module, name = (file.readline().removesuffix(b"\n") for _ in range(2))
            return f"{module.decode('utf-8')}.{name.decode('utf-8')}"
        else:
            return opcode.arg.reader(file) if opcode.arg else None
        is_text = opcode.name in TEXT_OF_PYTHON_2 and self._decodes_text
        return argument.decode("latin-1") if is_text else argument


def _read_block(file: BoundedFile, length_size: int) -> bytes:
    """Reads bytes with their length before them, without a second copy."""
    size = int.from_bytes(file.read(length_size), "little")
    content = file.read(min(size, sys.maxsize))
    if len(content) != size:
        raise ValueError(f"the pickle is cut short: {size} bytes are to come, {len(content)} do")
    return content


def _unescaped(line: bytes) -> bytes:
    """Returns the content of a quoted line of protocol 0."""
    quoted = line.strip()
    if len(quoted) < 2 or quoted[:1] not in (b"'", b'"') or quoted[-1:] != quoted[:1]:
        raise ValueError("the pickle has text without quotes")
    if b"\\" in _ESCAPES.sub(b"", quoted[1:-1]):
        raise ValueError("the pickle has text with an unknown escape")
    return codecs.escape_decode(quoted[1:-1])[0]


def _collected(opcode: str, items: list[Any]) -> Any:
    if opcode == "DICT":
        return dictionary(zip(items[::2], items[1::2], strict=True))
    return items if opcode == "LIST" else tuple(items)


def refusal(name: str) -> str:
    """The message for a class or function that is not allowed."""
    return (
        f"the pickle needs {name[:100]}, which is never loaded from a file; "
        "expected tensors and plain containers: save model.state_dict() instead"
    )


def dictionary(pairs: Any) -> dict[Any, Any]:
    """Makes a dict of pairs, with keys of plain types only.

    Raises:
        ValueError: A key has a type that is not in `KEYS`.
    """
    items = list(pairs)
    for key, _ in items:
        if not isinstance(key, KEYS + (Opaque,)):
            raise ValueError(f"the pickle has a {type(key).__name__} as a key of a dict")
    return dict(items)
