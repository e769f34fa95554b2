"""Python files of literals: read without being run."""

import pytest

from maskrcnn_jax.weights import literals


def test_assignments_of_literals():
    found = literals.parse(
        '"""A config."""\n'
        "a = [1, (2.5, 'x'), None, True]\n"
        "b = dict(type='MaskRCNN', neck=dict(), scale=-1)\n"
        "c = {'k': {1: -0.5}}\n"
        "a = 3\n"
    )
    assert found == {
        "a": 3,
        "b": {"type": "MaskRCNN", "neck": {}, "scale": -1},
        "c": {"k": {"1": -0.5}},
    }
    assert literals.parse("a = [1, [2]]") == {"a": (1, (2,))} and literals.parse("") == {}


@pytest.mark.parametrize(
    "statement, kind",
    [
        ("import os", "Import"),
        ("a = open('x')", "Call"),
        ("a = dict([('k', 1)])", "Call"),
        ("a = dict(**b)", "Call"),
        ("a = b", "Name"),
        ("a = 1 + 1", "BinOp"),
        ("a = -'x'", "UnaryOp"),
        ("a = {b: 1}", "Dict"),
        ("a = {**b}", "Dict"),
        ("a = b = 1", "Assign"),
        ("a, = 1,", "Assign"),
        ("a.b = 1", "Assign"),
        ("a += 1", "AugAssign"),
        ("f()", "Expr"),
        ("def f(): pass", "FunctionDef"),
    ],
)
def test_anything_else_is_refused_with_its_line(statement, kind):
    with pytest.raises(ValueError, match=f"line 2 is a {kind}: only assignments of literals"):
        literals.parse(f"good = 1\n{statement}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("good = 1\na = (", "line 2 is no Python"),
        ("a = \0", "no Python"),
        ("a = " + "[" * 5000 + "]" * 5000, "no Python|nested too deep"),
        ("a = " + "dict(b=" * 90 + "1" + ")" * 90, None),
    ],
)
def test_broken_and_deep_files(text, message):
    if message is None:
        assert str(literals.parse(text)).count("'b'") == 90
    else:
        with pytest.raises(ValueError, match=message):
            literals.parse(text)
