"""A table converts arrays to variables and back, and misfits are described."""

import numpy as np
import pytest

from maskrcnn_jax.weights import layout
from maskrcnn_jax.weights.layout import Entry, entry

TABLE = [
    entry("conv.weight", ("params", "conv", "kernel"), (2, 3, 4, 5), (2, 3, 1, 0)),
    # A linear layer over a flattened feature map of 3 channels, 1 row and 2 columns.
    Entry("fc", ("params", "fc", "kernel"), (4, 6), (4, 3, 1, 2), (2, 3, 1, 0), (6, 4)),
]


def arrays():
    random = np.random.default_rng(0)
    return {each.name: random.normal(size=each.shape).astype(np.float32) for each in TABLE}


def test_axes_move_as_the_table_says_and_back():
    state = arrays()
    variables = layout.arrange(state, TABLE)
    kernel = variables["params"]["conv"]["kernel"]
    assert kernel.shape == (4, 5, 3, 2) and kernel[1, 2, 0, 1] == state["conv.weight"][1, 0, 1, 2]
    flat = variables["params"]["fc"]["kernel"]
    for column in range(2):
        for channel in range(3):
            ours, theirs = column * 3 + channel, channel * 2 + column
            np.testing.assert_array_equal(flat[ours], state["fc"][:, theirs])
    back = layout.restore(variables, TABLE)
    assert list(back) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


def test_every_misfit_in_words():
    state = arrays()
    state["more"], state["fc"] = np.zeros(1), np.zeros((6, 4))
    del state["conv.weight"]
    problems = layout.misfits(state, layout.shapes(TABLE))
    wrong = "fc has shape (6, 4), expected (4, 6)"
    assert problems == ["missing conv.weight", "unexpected more", wrong]
    with pytest.raises(
        ValueError, match="^no:\n  missing conv.weight\n  unexpected more\n  fc has"
    ):
        layout.check_fit(state, layout.shapes(TABLE), "no")
    layout.check_fit(arrays(), layout.shapes(TABLE), "no")


def test_a_message_about_many_misfits_is_short():
    arrays = {f"{i} " + "x" * 1000: np.zeros(1) for i in range(5000)}
    with pytest.raises(ValueError) as error:
        layout.check_fit(arrays, {"y": (1,)}, "no fit")
    lines = str(error.value).splitlines()
    assert lines[0] == "no fit:" and lines[1] == "  missing y" and len(lines) == 42
    assert lines[-1] == "  and 4961 more" and max(map(len, lines)) < 320


def test_variables_that_are_not_of_the_table_are_refused():
    variables = layout.arrange(arrays(), TABLE)
    del variables["params"]["fc"]
    with pytest.raises(ValueError, match="missing params/fc/kernel"):
        layout.restore(variables, TABLE)
