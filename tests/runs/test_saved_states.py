"""The items of a checkpoint: what they hold, how they are compared, and which errors are damage."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskrcnn_jax import training
from maskrcnn_jax.runs import saved_states
from maskrcnn_jax.runs.checkpoints import Checkpoints
from maskrcnn_jax.training import TrainState
from tests.runs.test_checkpoints import assert_equal, make_state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A state, and its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(make_state(2.0))
        checkpoints.wait()
    return folder / "checkpoints" / "2", make_state(2.0)


def test_a_state_is_two_items_and_back():
    state = make_state(3.0)
    items = saved_states.items(state)
    assert items["variables"] == state.variables and items["training"]["params"] is None
    assert_equal(saved_states._join(**items), state)


def test_an_average_stands_in_the_variables():
    """So that whoever reads the variables alone gets it."""
    state = make_state(3.0)._replace(average={"a": jnp.full(3, 9.0)})
    items = saved_states.items(state)
    assert items["variables"]["params"] == state.average
    assert items["training"]["params"] == state.params
    assert_equal(saved_states._join(**items), state)


def test_what_was_saved_is_read(saved):
    path, state = saved
    assert_equal(saved_states.read(path, make_state(0.0)), state)
    variables = saved_states.abstract(state.variables)
    assert_equal(saved_states.read_variables(path, variables), state.variables)
    saved_states.read_back(path, state)
    saved_states.check(path, state)


def with_a_larger(state, **more):
    params = {"a": jnp.zeros(4)} | more
    return state._replace(params=params)


def test_another_model_does_not_fit(saved):
    path, state = saved
    other = with_a_larger(state, b=jnp.zeros(2))
    message = r"does not fit this config: params.b is missing, params.a is \(3,\), not \(4,\)"
    with pytest.raises(saved_states.DoesNotFit, match=message):
        saved_states.read(path, other)
    with pytest.raises(saved_states.DoesNotFit, match="variables is not what was saved: params.b"):
        saved_states.check(path, other)


def test_a_list_of_differences_is_short():
    saved = {f"x{i}": (1,) for i in range(9)}
    told = saved_states._differences(saved, {"x0": (2,)})
    assert told == (
        "x1 is unexpected, x2 is unexpected, x3 is unexpected, x4 is unexpected, "
        "x5 is unexpected, and 4 more"
    )
    assert saved_states._differences(saved, saved) == ""


def test_places_in_tuples_are_no_part_of_a_name():
    """Clipping puts one more state in front of the others."""
    params = {"a": jnp.zeros(2)}
    plain, clipped = (
        saved_states._leaves_by_name(optimizer.init(params))
        for optimizer in (
            optax.adamw(0.1),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
        )
    )
    assert plain.keys() == clipped.keys() and {"count", "mu.a", "nu.a"} <= plain.keys()
    twice = saved_states._leaves_by_name(({"n": 1}, {"n": 2}, [{"n": 3}]))
    assert twice == {"n": 1, "n (2)": 2, "n (3)": 3}


@pytest.mark.parametrize(
    "error, damaged",
    [
        (ValueError("DATA_LOSS: checksum"), True),
        (ValueError("NOT_FOUND: chunk"), True),
        (ValueError("Error decoding zstd"), True),
        (FileNotFoundError("gone"), True),
        (KeyError("params"), True),
        (json.JSONDecodeError("x", "{", 1), True),
        (PermissionError("no"), False),
        (OSError("the network is down"), False),
        (ValueError("PERMISSION_DENIED: x"), False),
        (ValueError("UNAVAILABLE: x"), False),
    ],
)
def test_unreachable_files_are_not_damaged(error, damaged):
    assert saved_states.is_damage(error) == damaged


@pytest.mark.parametrize(
    "text, line",
    [
        ("a reason\nand pages", "a reason"),
        ("a reason [tensorstore_spec='...']", "a reason"),
        ("x" * 300, "x" * 300),
        ("a" * 100 + "b" * 50 + "c" * 200, "a" * 100 + " ... " + "c" * 200),
    ],
)
def test_the_first_line_of_an_error(text, line):
    assert saved_states.first_line(ValueError(text)) == line
    assert saved_states.first_line(ValueError()) == "ValueError()"


def test_abstract_arrays_keep_their_sharding():
    x = jax.device_put(np.zeros((2, 3), np.float32), jax.devices()[1])
    shape = saved_states.abstract({"x": x})["x"]
    assert (shape.shape, shape.dtype, shape.sharding) == ((2, 3), np.float32, x.sharding)


def test_the_fields_of_a_state_are_those_of_the_items():
    """A field that is added to `TrainState` has to be saved too."""
    items = saved_states.items(training.create_state(make_state(1.0).variables, optax.sgd(0.1)))
    assert set(TrainState._fields) - {"average"} == {*items["variables"], *items["training"]}
