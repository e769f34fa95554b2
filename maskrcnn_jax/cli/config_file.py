"""Reading a config file, and changing its fields from the command line."""

import ast
import importlib.util
import sys
import traceback
import typing
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from maskrcnn_jax.config import Config
from maskrcnn_jax.settings import check_type


class _OrNone(flags.ArgumentParser):
    """Reads ``None`` as None, and any other value with the given parser.

    `config_check` later refuses None in a field that may not be None.
    """

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self._parser = parser
        self.syntactic_help = parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


# For optional fields in the flags of training: ml_collections would read "None" as a string.
_PARSERS = {int: flags.IntegerParser(), float: flags.FloatParser(), str: flags.ArgumentParser()}
for _type, _parser in _PARSERS.items():
    config_flags.register_flag_parser_for_type(_type, _OrNone(_parser))


def read(path: Path) -> Config:
    """Runs a config file, and returns the config of its ``get_config``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not Python, has no ``get_config``, or fails. The message names the
            line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.absolute().parent.parent))  # Configs import each other as `configs.x`.
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError(f"{path} has no function get_config")
        config = module.get_config()
    except Exception as error:  # A user's file may raise anything.
        raise ValueError(_describe(error, path)) from error
    if not isinstance(config, Config):
        got = type(config).__name__
        raise ValueError(f"get_config of {path} must return a Config, got {got}")
    return config


def _describe(error: Exception, path: Path) -> str:
    """The message of an error in a config file, with the line number."""
    if isinstance(error, ValueError) and str(path) in str(error):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return f"{where}: {type(error).__name__}: {error}"


def override(config: Config, setting: str) -> None:
    """Assigns a field of a config in place.

    Args:
        config: The config to change.
        setting: The field and its new value, such as ``model.dtype=bfloat16``,
            ``model.mask_head=None`` or ``data.buckets=((832, 1344),)``.

    Raises:
        ValueError: There is no such field, or the value has another type than the field.
    """
    path, equals, text = setting.partition("=")
    *parents, name = path.split(".")
    settings = config
    for parent in parents:
        settings = getattr(settings, parent, None)
    hints = typing.get_type_hints(type(settings))
    if not equals or name not in hints:
        raise ValueError(
            f"{setting[:200]!r} names no field of the config: "
            "write FIELD=VALUE, as in model.dtype=bfloat16"
        )
    value = _parse(text)
    if type(value) is int and float in (hints[name], *typing.get_args(hints[name])):
        value = float(value)
    check_type(path, value, hints[name])
    setattr(settings, name, value)


def _parse(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # The last two: deep nesting.
        return text
