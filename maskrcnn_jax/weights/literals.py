"""Reads a file of Python that only assigns literals and ``dict(...)``; nothing in it is run."""

import ast
from typing import Any


def parse(text: str) -> dict[str, Any]:
    """Returns the values that a config assigns, by name; lists are tuples.

    Raises ValueError, which names the line, for anything but assignments of literals.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} is no Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no Python: {error}") from error
    found = {}
    try:
        for node in tree.body:
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if is_text:
                continue
            is_assignment = isinstance(node, ast.Assign) and len(node.targets) == 1
            if not is_assignment or not isinstance(node.targets[0], ast.Name):
                raise ValueError(_refusal(node))
            found[node.targets[0].id] = _literal(node.value)
    except RecursionError as error:
        raise ValueError("its values are nested too deep") from error
    return found


def _refusal(node: ast.AST) -> str:
    return (
        f"line {node.lineno} is a {type(node).__name__}: only assignments of literals and "
        "dict(...) are read, as MMDetection's tools/misc/print_config.py writes them"
    )


def _literal(node: ast.expr) -> Any:
    """Returns the value of a literal or of ``dict(...)``, without running anything."""
    match node:
        case ast.Constant(value):
            return value
        case ast.List(items) | ast.Tuple(items):
            return tuple(_literal(item) for item in items)
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
            return -number
        case ast.Dict(keys, values) if all(isinstance(key, ast.Constant) for key in keys):
            pairs = zip(keys, values, strict=True)
            return {str(key.value): _literal(value) for key, value in pairs}
        case ast.Call(ast.Name("dict"), [], keywords) if all(x.arg for x in keywords):
            return {x.arg: _literal(x.value) for x in keywords}
    raise ValueError(_refusal(node))
