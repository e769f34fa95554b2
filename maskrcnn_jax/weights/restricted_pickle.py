"""Reads a pickle as data only: containers, numbers, text, and calls of allowed functions.

Python's own unpickler calls any function that a file names. This unpickler accepts only the opcodes
that state dicts need (protocols 2 to 5). A class or function in the file is only a name, which is
looked up in the caller's table and never imported, so a file cannot call, create or change anything
else.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PUSHED = {  # Opcodes that push their argument.
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NEW = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
KNOWN = {
    *PUSHED,
    *LITERALS,
    *NEW,
    *TUPLES,
    *("PROTO", "FRAME", "STOP", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("MARK", "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
}
OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
# Allowed types of keys. Hashing a deeply nested tuple would overflow the stack.
KEYS = (str, int, float, bytes, type(None))


class Name(NamedTuple):
    """The full name of a class or function, such as ``torch.FloatStorage``."""

    text: str


class RestrictedUnpickler:
    """A stack machine that reads one pickle.

    Args:
        functions: The functions that a file may call, by full name; None for names that a file may
            use but not call. A function gets the tuple of arguments from the file and must check
            it, because a file may pass anything.
        persistent_load: The function that resolves persistent ids.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[tuple], Any] | None],
        persistent_load: Callable[[Any], Any],
    ) -> None:
        self._functions = functions
        self._persistent_load = persistent_load
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # The part of the stack below each mark.
        self._memo: dict[int, Any] = {}

    def load(self, file: io.BytesIO) -> Any:
        """Reads one pickle; the position of the file is then behind the pickle.

        The file must be in memory, because the parser reads as many bytes as the pickle declares.

        Raises:
            ValueError: The pickle is damaged, or needs an opcode or name that is not allowed.
        """
        try:
            while (opcode := _read_opcode(file)).name != "STOP":
                self._step(opcode.name, _read_argument(file, opcode))
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
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
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
            case "TUPLE":
                items = self._pop_to_mark()
                self._stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._pop(TUPLES[opcode])))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
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
            case "REDUCE":
                function, arguments = self._pop(2)
                call = self._functions[function.text] if isinstance(function, Name) else None
                if call is None or type(arguments) is not tuple:
                    raise ValueError("the pickle calls what is not a function")
                self._stack.append(call(arguments))
            case "BUILD":
                # Ignore attributes of an OrderedDict, such as the _metadata of a state dict.
                self._pop(1)
                self._top(dict)
            case "BINPERSID":
                self._stack.append(self._persistent_load(self._pop(1)[0]))

    def _name(self, text: str) -> Name:
        if text not in self._functions:
            raise ValueError(
                f"the pickle needs {text[:100]}, which is never loaded from a file; "
                "expected tensors and plain containers: save model.state_dict() instead"
            )
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


def _read_opcode(file: io.BytesIO) -> pickletools.OpcodeInfo:
    code = file.read(1)
    if not code:
        raise ValueError("the pickle is cut short")
    if code not in OPCODES or OPCODES[code].name not in KNOWN:
        wanted = OPCODES[code].name if code in OPCODES else repr(code)
        raise ValueError(f"the pickle has the instruction {wanted}, which no state dict needs")
    return OPCODES[code]


def _read_argument(file: io.BytesIO, opcode: pickletools.OpcodeInfo) -> Any:
    # GLOBAL has two lines. pickletools would interpret escapes in them, unlike Python's unpickler.
    if opcode.name == "GLOBAL":
        module, name = (file.readline().removesuffix(b"\n") for _ in range(2))
        return f"{module.decode('utf-8')}.{name.decode('utf-8')}"
    return opcode.arg.reader(file) if opcode.arg else None


def dictionary(pairs: Any) -> dict[Any, Any]:
    """Makes a dict of pairs, with keys of plain types only.

    Raises:
        ValueError: A key has a type that is not in `KEYS`.
    """
    items = list(pairs)
    for key, _ in items:
        if not isinstance(key, KEYS):
            raise ValueError(f"the pickle has a {type(key).__name__} as a key of a dict")
    return dict(items)
