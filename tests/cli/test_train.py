"""Training as a command: its flags, its help, and its mistakes."""

import re
import sys

import jax
import pytest
from absl import flags

from maskrcnn_jax import distributed
from maskrcnn_jax.cli import train, training_loop

TRAINING = [
    ("", "D/syntax.py", "syntax.py, line 1: "),
    ("", "D/name.py", "name.py, line 2: NameError"),
    ("", "D/field.py", "field.py, line 4: TypeError: .*'modle'"),
    ("", "D/nothing.py", "get_config of .*nothing.py must return a Config"),
    ("", "D/text.txt", "text.txt is not a Python file"),
    ("", "D/nowhere.py", "there is no config file .*nowhere.py"),
    ("", "D/value.py", "batch_size must be of type int, got 'two'"),
    ("--confg.batch_size=2", "D/good.py", "confg.batch_size"),
    (
        "config.batch_size=2",
        "D/good.py",
        "'config.batch_size=2' is no option: .* by --config.FIELD=VALUE",
    ),
    ("--config.batch_sze=2", "D/good.py", "batch_sze"),
    ("--config.batch_size=two", "D/good.py", "--config.batch_size=two: "),
    ("--config.batch_size=0", "D/good.py", "batch_size must be at least 1; got 0"),
    (
        "--config.model.backbone.norm=layer",
        "D/good.py",
        "model.backbone.norm must be one of .*; got 'layer'",
    ),
    ("--config.execution.num_devices=9", "D/good.py", "execution.num_devices=9, but there are 8"),
    ("--config.execution.space=2", "D/good.py", "execution.space=2 does not divide the number of"),
    (
        "--config.optimizer.name=adam",
        "D/good.py",
        "optimizer.name must be one of sgd, adamw; got 'adam'",
    ),
    ("--config.model.num_classes=7", "D/good.py", "num_classes must be 2, .*; got 7"),
    ("--config.data.train_annotations=D/broken.json", "D/good.py", "broken.json is not valid JSON"),
    (
        "--config.data.train_annotations=D/renamed.json",
        "D/good.py",
        "training set does not know category 1 'disc' of the data set, which is 'apple'",
    ),
    (
        "--config.data.train_annotations=D/unmasked.json",
        "D/good.py",
        "data.train_annotations: .*unmasked.json has 2 usable images .*, but no object to learn",
    ),
    (
        "--config.data.val_annotations=D/lvis.json",
        "D/good.py",
        "fields of LVIS, but image id 2 has no list neg_category_ids",
    ),
    ("", "D/empty_set.py", "data.train: a set has no images: .*empty.json has 0"),
    (
        "--config.model.box_head.federated_classes=50",
        "D/good.py",
        'model.box_head.federated_classes needs model.box_head.classifier "sigmoid"; got 50',
    ),
    ("--config.data.val_images=D/nowhere", "D/good.py", "there is no image folder .*nowhere"),
    ("--config.weights=D/text.pth", "D/good.py", "text.pth cannot be read as weights"),
    ("--workdir=D/text.txt", "D/good.py", "--workdir .*text.txt is a file.*: give a directory"),
]


@pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"
)  # ml_collections runs a config file by this deprecated method.
@pytest.mark.parametrize(
    "flag, config, message", TRAINING, ids=[" ".join(mistake[:2]) for mistake in TRAINING]
)
def test_a_mistake_in_training_too(
    flag, config, message, wrong_files, tmp_path, monkeypatch, capsys
):
    arguments = ["train.py", f"--config={config}", f"--workdir={tmp_path}/run", *flag.split()]
    arguments = [argument.replace("D/", f"{wrong_files}/") for argument in arguments]
    assert_training_refuses(arguments, message, monkeypatch, capsys)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_tilde_in_workdir_is_the_home_folder(wrong_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").write_text("a file")
    arguments = ["train.py", f"--config={wrong_files}/good.py", "--workdir=~/run"]
    message = f"--workdir {tmp_path}/run is a file"
    assert_training_refuses(arguments, message, monkeypatch, capsys)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 GiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Unable to allocate"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_training_that_runs_out_of_memory(error, wrong_files, tmp_path, monkeypatch, capsys):
    def run_out(config, workdir, announce, command):
        raise error

    monkeypatch.setattr(training_loop, "train", run_out)
    arguments = ["train.py", f"--config={wrong_files}/good.py", f"--workdir={tmp_path}/run"]
    message = (
        "out of memory: Unable to allocate.*; use .* a smaller batch_size; .*rematerialise=true"
    )
    assert_training_refuses(arguments, message, monkeypatch, capsys)


def run_until_exit(arguments, monkeypatch):
    """Runs the command in this process, and forgets its flags; returns the exit code."""
    monkeypatch.setattr(sys, "argv", arguments)  # ml_collections reads the changes from there.
    try:
        with pytest.raises(SystemExit) as exit:
            train.main(train.parse(arguments))
    finally:
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
    return exit.value.code


def assert_training_refuses(arguments, message, monkeypatch, capsys):
    code = run_until_exit(arguments, monkeypatch)
    printed = capsys.readouterr().err
    assert code == 2, printed
    assert "Traceback" not in printed
    (said,) = [line for line in printed.splitlines() if line.startswith("train.py:")]
    assert re.search(message, said), printed


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    "reason, code, message",
    [
        (distributed.Preempted("after step 7"), 143, "SIGTERM: after step 7; the same command"),
        (KeyboardInterrupt(), 130, "train.py: interrupted"),
    ],
)
def test_a_run_that_is_stopped(reason, code, message, wrong_files, tmp_path, monkeypatch, capsys):
    def stop(config, workdir, announce, command):
        raise reason

    monkeypatch.setattr(training_loop, "train", stop)
    arguments = ["train.py", f"--config={wrong_files}/good.py", f"--workdir={tmp_path}/run"]
    assert run_until_exit(arguments, monkeypatch) == code
    printed = "".join(capsys.readouterr())
    assert message in printed and "Traceback" not in printed


def test_the_help_names_the_program_and_the_flags(capsys):
    with pytest.raises(SystemExit) as left:
        train.run("train.py", ["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "python train.py --config=configs/shapes.py" in printed and train.NAME not in printed
    assert all(flag in printed for flag in ("--config", "--workdir", "--coordinator"))
    assert "maskrcnn-jax train --config=configs/shapes.py" in train.about(train.NAME)
