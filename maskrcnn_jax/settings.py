"""Nested settings: dataclasses that refuse unknown fields, check ranges and can be frozen.

A field states its range beside its type, as in ``num_samples: Annotated[int, at_least(1)] = 256``.
`freeze` makes settings hashable, as the fields of Flax modules must be.
"""

import copy
import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

_MAX_SHOWN = 200  # Characters of a value in a message.
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4028235e38  # Devices compute with 32 bits.


class Constraint(NamedTuple):
    """The values that a field may take."""

    words: str  # Completes "FIELD must be ...".
    holds: Callable[[Any], bool]
    of_members: bool = True  # Checked for each member of a tuple, at any depth, or for the tuple.


def at_least(low: float | int) -> Constraint:
    """No less than ``low``."""
    return Constraint(f"at least {low}", lambda x: x >= low)


def above(low: float | int) -> Constraint:
    """More than ``low``."""
    return Constraint(f"above {low}", lambda x: x > low)


def between(low: float | int, high: float | int) -> Constraint:
    """From ``low`` to ``high``, both included."""
    return Constraint(f"from {low} to {high}", lambda x: low <= x <= high)


def one_of(*choices: Any) -> Constraint:
    """Equal to one of the choices."""
    return Constraint(f"one of {', '.join(map(str, choices))}", lambda x: x in choices)


NOT_EMPTY = Constraint("not empty", lambda x: len(x) > 0, of_members=False)


def _setattr(self: Any, name: str, value: Any) -> None:
    if name not in self.__dataclass_fields__:
        fields = ", ".join(self.__dataclass_fields__)
        raise AttributeError(
            f"{type(self).__name__} has no field {name!r}; its fields are {fields}"
        )
    if self.__dict__.get("_frozen"):
        raise AttributeError(
            f"this {type(self).__name__} is frozen: set {name!r} before the model is built"
        )
    self.__dict__[name] = value


def _hash(self: Any) -> int:
    if not self.__dict__.get("_frozen"):
        raise TypeError(
            f"a {type(self).__name__} can change, so it has no hash: pass it through freeze first"
        )
    return hash((type(self), *(getattr(self, name) for name in _names(self))))


@typing.dataclass_transform(field_specifiers=(field,))
def settings(cls: type[T]) -> type[T]:
    """Makes a dataclass that refuses unknown fields and, once frozen, every assignment."""
    for name, method in ("__setattr__", _setattr), ("__hash__", _hash):
        setattr(cls, name, method)
    made: Any = dataclasses.dataclass(cls)
    for each in dataclasses.fields(made):
        each.type = _without_constraints(each.type)  # ml_collections reads plain types only.
    return made


def freeze(config: T) -> T:
    """Returns a copy, nested settings included, that is hashable and refuses assignments."""
    frozen = copy.copy(config)
    for name in _names(config):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            value = freeze(value)
        frozen.__dict__[name] = _as_tuple(value)
    frozen.__dict__["_frozen"] = True
    return frozen


def to_dict(config: Any) -> dict[str, Any]:
    """Settings as nested dictionaries of plain values, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Any) -> T:
    """The inverse of `to_dict`; absent fields keep their defaults.

    Raises:
        ValueError: A field is unknown (the message names it and its settings), or ``values`` is not
            a dictionary.
    """
    if not isinstance(values, dict):
        expected = f"{cls.__name__} must be an object with names and values"
        raise ValueError(f"{expected}, got {_shown(values)}")
    config, hints = cls(), typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in _names(cls):
            raise ValueError(f"{cls.__name__} has no field {_shown(name)}")
        default = getattr(config, name)
        kind = _kind(hints[name], default, value)
        value = _as_tuple(value) if kind is None or value is None else from_dict(kind, value)
        setattr(config, name, value)
    return config


def _kind(hint: Any, default: Any, values: Any) -> Any:
    """The type of nested settings for a dictionary: the first of a hint with all of its fields.

    None if the field holds no settings.
    """
    plain = _without_constraints(hint)
    kinds = [x for x in typing.get_args(plain) or (plain,) if dataclasses.is_dataclass(x)]
    given = set(values) if isinstance(values, dict) else set()
    first = next(iter(kinds), None) if default is None else type(default) if kinds else None
    return next((kind for kind in kinds if given <= {*_names(kind)}), first)


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """The fields in which two settings differ, each as ``name: value of a -> value of b``."""
    found = []
    for name in _names(a):
        x, y = _as_tuple(getattr(a, name)), _as_tuple(getattr(b, name))
        if dataclasses.is_dataclass(x) and type(x) is type(y):
            found += differences(x, y, f"{prefix}{name}.")
        elif x != y:
            found.append(f"{prefix}{name}: {shortened(str(x))} -> {shortened(str(y))}")
    return found


def _names(config: Any) -> tuple[str, ...]:
    """The names of the fields of a dataclass, or of its type."""
    return tuple(config.__dataclass_fields__)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


class Field(NamedTuple):
    """One field of nested settings."""

    name: str  # The path to it, such as ``model.rpn.num_samples``.
    value: Any
    hint: Any  # Its type, without constraints.
    constraints: tuple[Constraint, ...]


def fields(config: Any, prefix: str = "") -> Iterator[Field]:
    """All fields, including those of nested settings.

    Raises:
        ValueError: Nested settings were replaced by a value of another type.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for name, hint in hints.items():
        value, plain = getattr(config, name), _without_constraints(hint)
        if dataclasses.is_dataclass(value):
            check_type(f"{prefix}{name}", value, plain)
            yield from fields(value, f"{prefix}{name}.")
        else:
            constraints = getattr(hint, "__metadata__", ())
            yield Field(f"{prefix}{name}", value, plain, constraints)


def check_fields(config: Any, prefix: str = "") -> None:
    """Raises ValueError, naming field, value and range, if a value is out of its range."""
    for each in fields(config, prefix):
        check_type(each.name, each.value, each.hint)
        members = list(_members(each.value))
        or_none = ", or None" if _is_of(None, each.hint) else ""
        for constraint in each.constraints:
            checked = members if constraint.of_members else [each.value]
            if not all(map(constraint.holds, checked)):
                expected = f"{constraint.words}{or_none}"
                raise ValueError(f"{each.name} must be {expected}; got {_shown(each.value)}")
        for number in members:
            if isinstance(number, int | float):
                largest = LARGEST_INT if isinstance(number, int) else LARGEST_FLOAT
                if not abs(number) <= largest:  # NaN fails this too.
                    expected = f"finite and at most {largest}{or_none}"
                    raise ValueError(f"{each.name} must be {expected}; got {_shown(each.value)}")


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raises ValueError, naming the field, unless the value has the declared type."""
    if not _is_of(value, hint):
        is_plain = isinstance(hint, type) and not typing.get_args(hint)
        expected = hint.__name__ if is_plain else str(hint)
        raise ValueError(f"{name} must be of type {expected}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value for a message, cut to one or two lines."""
    return shortened(repr(value))


def shortened(text: str) -> str:
    """A text, cut to one or two lines."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text)} characters)"


def _without_constraints(hint: Any) -> Any:
    return typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint


def _members(value: Any) -> Iterator[Any]:
    """The members of a tuple, at any depth, or the value itself; nothing for None."""
    if isinstance(value, tuple | list):
        for member in value:
            yield from _members(member)
    elif value is not None:
        yield value


def _is_of(value: Any, hint: Any) -> bool:
    arguments = typing.get_args(hint)
    if hint is Any:
        return True
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_is_of(value, argument) for argument in arguments)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple | list):
            return False
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        return len(value) == len(arguments) and all(map(_is_of, value, arguments))
    if hint in (int, float):  # Whole numbers pass as floats, truth values as neither.
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)
