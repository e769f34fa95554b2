"""Reading a config file, and changing its fields from the command line."""

import ast
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from maskrcnn_jax.config import Config


def read(path: Path) -> Config:
    """The config that a file's ``get_config`` returns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not Python, has no ``get_config``, or fails. The message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.absolute().parents[1]))  # Configs import each other as `configs.x`.
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError(f"{path} has no function get_config")
        config = module.get_config()
    except Exception as error:  # Anything can happen in a file of the user's.
        raise ValueError(_describe(error, path)) from error
    if not isinstance(config, Config):
        raise ValueError(f"get_config of {path} must return a Config, got {type(config).__name__}")
    return config


def _describe(error: Exception, path: Path) -> str:
    """What failed in a config file, and in which line of it."""
    if isinstance(error, ValueError) and str(path) in str(error):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return f"{where}: {type(error).__name__}: {error}"


def override(config: Config, setting: str) -> None:
    """Assigns a field, as in ``model.dtype=bfloat16`` or ``data.buckets=((832, 1344),)``.

    Raises:
        ValueError: There is no such field, or the value has another type than the field.
    """
    path, equals, text = setting.partition("=")
    *parents, name = path.split(".")
    settings = config
    for parent in parents:
        settings = getattr(settings, parent, None)
    if not equals or name not in getattr(settings, "__dataclass_fields__", {}):
        raise ValueError(f"{setting!r} names no field of the config: write FIELD=VALUE, as in model.dtype=bfloat16")
    default, value = getattr(settings, name), _parse(text)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(f"{path} must be of type {type(default).__name__}, got {text!r}")
    setattr(settings, name, value)


def _parse(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
