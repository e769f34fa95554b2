"""A damaged checkpoint is refused, or gives arrays of the shapes that were saved."""

import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_jax.runs import saved_states, stored_files
from maskrcnn_jax.runs.checkpoints import Checkpoints
from maskrcnn_jax.training import TrainState
from tests.fuzz import guard, mutations

FEW = settings(max_examples=max(settings().max_examples // 5, 6))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint, and the variables in it."""
    folder = tmp_path_factory.mktemp("run")
    kernel = jax.device_put(np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32))
    variables = {"params": {"a": {"kernel": kernel, "bias": kernel[0]}, "b": -kernel}}
    state = TrainState(
        step=jax.device_put(np.int32(1)),
        params=variables["params"],
        constants={},
        batch_stats={},
        optimizer={"trace": variables["params"]},
    )
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state)
    checkpoints.close()
    return folder / "checkpoints" / "1", state.variables


def test_the_undamaged_files_are_read(saved):
    path, variables = saved
    found = saved_states.read_variables(path, saved_states.abstract(variables))
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def damaged(rng, path, copy):
    """Copies the variables of a checkpoint, and spoils or removes up to three files."""
    shutil.copytree(path / "variables", copy / "variables")
    for _ in range(rng.randint(1, 3)):
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        if not files:
            return
        path = rng.choice(files)
        match rng.randrange(5):
            case 0:
                path.unlink()
            case 1:
                path.write_bytes(b"")
            case 2:
                path.write_bytes(files[0].read_bytes())
            case _:
                path.write_bytes(mutations.content(rng, path.read_bytes()))


# tensorstore prints these errors for abandoned futures; `cli.ignored_errors` hides them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@FEW
@given(rng=st.randoms(use_true_random=False))
def test_damaged_files(saved, tmp_path_factory, rng):
    path, variables = saved
    copy = tmp_path_factory.mktemp("damaged")
    damaged(rng, path, copy)
    # Tensorstore has many threads, each of which takes address space at its start.
    with guard.limits("test_damaged_files", 100_000, base=4 << 30):
        try:
            found = saved_states.read_variables(copy, saved_states.abstract(variables))
        except (ValueError, LookupError, OSError, saved_states.DoesNotFit):
            return
    # The list of arrays has checksums, the arrays have none: single bits may differ.
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.shape, y.shape), found, variables)


def test_broken_arrays_are_one_error(saved, tmp_path):
    """Orbax raises an error for one array, and leaves the others behind in a closed event loop."""
    path, variables = saved
    shutil.copytree(path / "variables", tmp_path / "variables")
    places = [x for _, x in stored_files._entries(tmp_path / "variables") if x is not None]
    for place in places:
        with (tmp_path / "variables" / stored_files._extent(place)[0]).open("r+b") as file:
            file.seek(int(place.split(":")[3]))
            file.write(bytes(8))  # In the place of the magic number of zstd.
    with pytest.raises(ValueError, match="decompress") as error:
        saved_states.read_variables(tmp_path, saved_states.abstract(variables))
    assert len(places) == 2 and saved_states.is_damage(error.value)


@pytest.mark.parametrize("place", ["..%2f..%2fother", "%2fetc%2fpasswd", "d%2f..%2f..%2fx"])
def test_a_list_of_arrays_names_no_file_elsewhere(tmp_path, monkeypatch, place):
    entries = [("a/.zarray", None), ("a/0.0", f"file::{place}:0:4")]
    monkeypatch.setattr(stored_files, "_entries", lambda item: iter(entries))
    with pytest.raises(ValueError, match="names a file outside of it"):
        stored_files.check(tmp_path)
