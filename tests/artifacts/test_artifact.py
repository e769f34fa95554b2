"""Artifacts are not trusted: damaged and other files are refused, and nothing in them runs."""

import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.artifacts import artifact
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import files, model_metadata

SIZE = (32, 64)
NAME = artifact.PROGRAM.format(*SIZE)


def serialise(function, *arguments):
    exported = jax.export.export(jax.jit(function), platforms=("cpu",))(*arguments)
    return np.frombuffer(exported.serialize(), np.uint8)


@pytest.fixture(scope="module")
def arrays():
    return {
        NAME: serialise(jnp.sin, np.float32(0)),
        "weights/head/bias": np.arange(3, dtype=np.float32),
    }


def metadata(**changes):
    config = Config(model=ModelConfig(num_classes=3), data=DataConfig(test_buckets=(SIZE,)))
    about = artifact.About(1, "float32", ("cpu",), "0.1")._asdict() | changes
    return model_metadata.encode(config, Categories((1, 2), ("a", "b"))) | {
        artifact.KEY: json.dumps(about)
    }


@pytest.fixture
def path(arrays, tmp_path):
    files.write(tmp_path / "good.npz", arrays, metadata())
    return tmp_path / "good.npz"


def assert_refused(path, message):
    with pytest.raises(
        ValueError, match=f"{path.name} cannot be read as an exported artifact: .*{message}"
    ):
        artifact.read(path)


def test_what_is_in_a_file(path, arrays):
    found = artifact.read(path)
    assert (
        found.path == path
        and list(found.programs) == [SIZE]
        and list(found.weights) == ["weights/head/bias"]
    )
    np.testing.assert_array_equal(found.programs[SIZE], arrays[NAME])
    assert found.about == artifact.About(1, "float32", ("cpu",), "0.1")
    assert artifact.ExportedModel(found).program(SIZE).call(np.float32(0.5)) == np.sin(
        np.float32(0.5)
    )


def test_numpy_reads_it_without_pickles(path, arrays):
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive[NAME], arrays[NAME])
        assert json.loads(json.loads(archive["maskrcnn_jax.json"])[artifact.KEY])["batch_size"] == 1


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        artifact.read(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\x80\x04K\x01.", b"PK\x03\x04 and more", b"text"]
)
def test_other_files(tmp_path, content):
    (tmp_path / "other.npz").write_bytes(content)
    assert_refused(tmp_path / "other.npz", "")
    assert_refused(tmp_path, "")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_refused(path, "damaged or cut short")


def test_a_changed_byte(path, arrays):
    content = bytearray(path.read_bytes())
    content[content.index(arrays[NAME].tobytes()) + 100] ^= 1
    path.write_bytes(content)
    assert_refused(path, f"'{NAME}.npy' is damaged: its checksum is wrong")


def test_weights_that_were_not_exported(tmp_path, arrays):
    files.write(tmp_path / "w.npz", arrays)
    assert_refused(tmp_path / "w.npz", "maskrcnn-jax export")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({artifact.KEY: "{"}, "broken"),
        ({artifact.KEY: "[]"}, "broken"),
        ({artifact.KEY: '{"batch_size": 1}'}, "broken"),
        ({artifact.KEY: metadata(batch_size="1")[artifact.KEY]}, "broken"),
        ({artifact.KEY: metadata(batch_size=0)[artifact.KEY]}, "broken"),
        ({artifact.KEY: metadata(dtype="int8")[artifact.KEY]}, "broken"),
        ({artifact.KEY: metadata(platforms=3)[artifact.KEY]}, "broken"),
        ({model_metadata.CONFIG: "3"}, "maskrcnn_jax.config.* is broken"),
        (
            {model_metadata.CONFIG: '{"data": {"test_buckets": [[64, 64]]}}'},
            "no program for images of .*64",
        ),
        (
            {model_metadata.CONFIG: '{"data": {"test_buckets": []}}'},
            "broken: data.test_buckets must be not empty",
        ),
        (
            {model_metadata.CONFIG: '{"data": {"test_buckets": [3]}}'},
            "broken: data.test_buckets must be of type",
        ),
    ],
)
def test_broken_metadata(path, arrays, changes, message):
    files.write(path, arrays, metadata() | changes)
    assert_refused(path, message)


@pytest.mark.parametrize("missing", [model_metadata.CONFIG, model_metadata.CATEGORIES])
def test_missing_metadata(path, arrays, missing):
    files.write(path, arrays, {key: text for key, text in metadata().items() if key != missing})
    assert_refused(path, "what its model was")


def test_a_program_that_jax_cannot_read(path, arrays):
    files.write(path, arrays | {NAME: arrays[NAME][:200]}, metadata())
    with pytest.raises(
        ValueError, match=f"jax {jax.__version__} .*{path.name}, which jax 0.1 exported: .*again"
    ):
        artifact.ExportedModel(artifact.read(path)).program(SIZE)


def test_a_program_that_calls_what_is_outside(path, arrays):
    """XLA calls such functions by name, and some of them trust addresses in their arguments."""
    calls = serialise(jnp.linalg.cholesky, np.eye(3, dtype=np.float32))
    files.write(path, arrays | {NAME: calls}, metadata())
    with pytest.raises(ValueError, match=f"{path.name} calls functions outside"):
        artifact.ExportedModel(artifact.read(path)).program(SIZE)
