"""`maskrcnn-jax export`, with a stand-in for the programs that it compiles."""

import pytest

from maskrcnn_jax.artifacts import export
from maskrcnn_jax.cli.main import main


@pytest.fixture
def exported(monkeypatch):
    """Collects the calls of `artifacts.export`, which write a small file."""
    calls = []

    def write(detector, path, **wanted):
        path.write_bytes(b"0" * 3_000_000)
        calls.append(wanted)

    monkeypatch.setattr(export, "export", write)
    return calls


def test_the_arguments_reach_the_export(run_directory, exported, tmp_path, capsys):
    path = tmp_path / "a.npz"
    command = ["export", "--weights", str(run_directory), str(path)]
    more = ["--size", "64x96", "--size", "96x64", "--batch", "3", "--input", "uint8"]
    assert main([*command, *more, "--score-threshold", "0.25"]) == 0
    assert exported == [
        {
            "sizes": [(64, 96), (96, 64)],
            "batch_size": 3,
            "dtype": "uint8",
            "score_threshold": 0.25,
        }
    ]
    printed = capsys.readouterr().out
    assert f"written: {path} (3 MB), for cpu, cuda, tpu" in printed
    assert "it takes uint8 images, 3 at a time, of 64x96, 96x64" in printed


def test_without_sizes_the_buckets_of_the_model_are_taken(run_directory, exported, tmp_path):
    assert main(["export", "--weights", str(run_directory), str(tmp_path / "a.npz")]) == 0
    ((wanted),) = exported
    assert wanted["sizes"] == ((64, 64),) and wanted["score_threshold"] is None


def test_a_file_of_others_stays_without_force(run_directory, exported, tmp_path, capsys):
    path = tmp_path / "a.npz"
    path.write_text("precious")
    command = ["export", "--weights", str(run_directory), str(path)]
    assert main(command) == 2 and path.read_text() == "precious" and exported == []
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0 and len(exported) == 1
