"""The page of all settings: fields, ranges and comments of `model_config.py` and `config.py`."""

import ast
import dataclasses
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from maskrcnn_jax import config, model_config, settings

_INTRODUCTION = """# Settings

Every field of `maskrcnn_jax.Config`, with its default. A config file sets fields by assignment. The
command line sets them by `--config.NAME=VALUE`, such as `--config.model.rpn.num_samples=128`.
A value of another type or outside of its range is refused.
"""


def markdown() -> str:
    """One table for each part of the config, in the order of the code."""
    comments = {}
    for module in (model_config, config):
        comments |= comments_of(inspect.getsource(module))
    sections = [_section(part, name, comments) for name, part in _parts(config.Config())]
    return "\n".join([_INTRODUCTION, *sections])


def _parts(part: Any, name: str = "config") -> Iterator[tuple[str, Any]]:
    """The settings with the path to each, outer ones first."""
    yield name, part
    for each in dataclasses.fields(part):
        value = getattr(part, each.name)
        if dataclasses.is_dataclass(value):
            prefix = "" if name == "config" else f"{name}."
            yield from _parts(value, f"{prefix}{each.name}")


def _section(part: Any, name: str, comments: dict[str, dict[str, str]]) -> str:
    prefix = "" if name == "config" else f"{name}."
    lines = [f"## {name}", "", f"{part.__doc__}".replace("\n    ", "\n"), ""]
    lines += ["| field | default | meaning and range |", "|---|---|---|"]
    for each in settings.fields(part, prefix):
        owner, _, field = each.name.rpartition(".")
        if owner == prefix.rstrip("."):
            meaning = comments[type(part).__name__].get(field, "")
            cells = f"`{each.name}`", f"`{each.value!r}`", f"{meaning} *{_kind(each)}*"
            lines.append(f"| {' | '.join(cell.replace('|', 'or') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _kind(each: settings.Field) -> str:
    """The type of a field and its range."""
    hint = each.hint.__name__ if isinstance(each.hint, type) else str(each.hint)
    hint = hint if hint != "tuple" else str(each.hint)
    hint = re.sub(r"\b\w+\.", "", hint).replace(" | ", " or ")  # Names without their modules.
    return ", ".join([hint, *(x.words for x in each.constraints)])


def comments_of(source: str) -> dict[str, dict[str, str]]:
    """The comment of each annotated field of each class: above it, beside it, and at its type."""
    lines = _comments(source)
    body = ast.parse(source).body
    types = {
        node.targets[0].id: _above(node.lineno, lines)
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return {
        node.name: dict(_of_class(node, lines, types))
        for node in body
        if isinstance(node, ast.ClassDef)
    }


def _of_class(
    node: ast.ClassDef, lines: dict[int, tuple[str, bool]], types: dict[str, str]
) -> Iterator[tuple[str, str]]:
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            beside, _ = lines.get(field.end_lineno or field.lineno, ("", False))
            kind = field.annotation
            of_type = types.get(kind.id, "") if isinstance(kind, ast.Name) else ""
            found = [text for text in (_above(field.lineno, lines), beside, of_type) if text]
            yield field.target.id, " ".join(found)


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """The comment on each line, and whether the line has nothing else."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.lstrip().startswith("#")
            found[token.start[0]] = (token.string.lstrip("# "), alone)
    return found


def _is_comment(line: int, lines: dict[int, tuple[str, bool]]) -> bool:
    return lines.get(line, ("", False))[1]


def _above(line: int, lines: dict[int, tuple[str, bool]]) -> str:
    """The comment on the lines directly above a line."""
    found: list[str] = []
    while _is_comment(line - len(found) - 1, lines):
        found.insert(0, lines[line - len(found) - 1][0])
    return " ".join(found)
