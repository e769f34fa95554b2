"""Reading a config file, and changing its fields from the command line."""

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

from maskrcnn_jax.config import Config


def read(path: Path) -> Config:
    """The config that a file's ``get_config`` returns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not Python, or has no ``get_config``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.absolute().parents[1]))  # Configs import each other as `configs.x`.
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no function get_config")
    return module.get_config()


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
