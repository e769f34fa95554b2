"""Mistakes of users at the command line: each ends in exit code 2 and one clear message."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

from maskrcnn_jax.cli import exits, train, training_loop
from maskrcnn_jax.cli.main import main

ROOT = Path(__file__).parents[2]
SQUARE = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
SQUARE["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]

CONFIG = """
from maskrcnn_jax.config import Config

def get_config():
    config = Config(num_steps=1, batch_size=1, test_batch_size=1)
    config.data.train_images = config.data.val_images = {images!r}
    config.data.train_annotations = config.data.val_annotations = {annotations!r}
    config.data.num_threads, config.model.num_classes = 1, 2
    config.execution.num_devices = 1
    config.data.test_short_side = config.data.test_max_long_side = 64
    config.data.test_buckets = ((64, 64),)
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with good files, and a broken file of every kind."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name in (
        "in",
        "cut",
        "empty",
        "broken_run/checkpoints",
        "old_run/checkpoints",
        "bare_run/checkpoints",
    ):
        (folder / name).mkdir(parents=True)
    for name in ("a", "b"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "in" / f"{name}.png")
        content = (folder / "in" / f"{name}.png").read_bytes()
        (folder / "cut" / f"{name}.png").write_bytes(content[:2000])
    for name in ("text.txt", "text.pth", "text.npz", "text.safetensors"):
        (folder / name).write_text("no such thing")
    np.savez(folder / "other.npz", a=np.zeros(3))
    write_annotations(folder)
    write_configs(folder)
    (folder / "broken_run" / "config.json").write_text('{"model": ')
    (folder / "broken_run" / "categories.json").write_text("[]")
    (folder / "old_run" / "config.json").write_text('{"model": {"dpeth": 18}}')
    (folder / "old_run" / "categories.json").write_text("[]")
    (folder / "bare_run" / "config.json").write_text("{}")
    return folder


def write_annotations(folder):
    images = [
        {"id": i, "file_name": f"{name}.png", "height": 40, "width": 60}
        for i, name in enumerate("ab", 1)
    ]
    objects = [SQUARE | {"id": i, "image_id": i} for i in (1, 2)]
    good = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "disc"}]}
    files = {
        "good": good,
        "unmasked": good
        | {"annotations": [{k: v for k, v in objects[0].items() if k != "segmentation"}]},
        "uncategorised": good | {"categories": [], "annotations": []},
        "empty": good | {"images": [], "annotations": []},
        "renamed": good | {"categories": [{"id": 1, "name": "apple"}]},
        "lvis": with_some_fields_of_lvis(good),
        "list": [],
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "broken.json").write_text('{"images": [')


def with_some_fields_of_lvis(content):
    """The second image lacks one."""
    fields = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    first, second = (image | fields for image in content["images"])
    second.pop("neg_category_ids")
    return content | {"images": [first, second]}


def write_configs(folder):
    def config(images="in", annotations="good"):
        return CONFIG.format(
            images=str(folder / images), annotations=str(folder / f"{annotations}.json")
        )

    files = {
        "good": config(),
        "cut": config("cut"),
        "renamed": config(annotations="renamed"),
        "absent": config(annotations="nowhere"),
        "lvis": config(annotations="lvis"),
        "empty_set": config().replace(
            "return config",
            f"image_folder, good = {str(folder / 'in')!r}, {str(folder / 'good.json')!r}\n"
            f"    empty = {str(folder / 'empty.json')!r}\n"
            "    config.data.train = ((image_folder, good, 1.0), (image_folder, empty, 3.0))\n"
            "    return config",
        ),
        "syntax": "def get_config(:\n",
        "name": "def get_config():\n    return Cofnig()\n",
        "package": "import no_such_package\n",
        "nothing": "def get_config():\n    pass\n",
        "function": "config = 1\n",
        "field": "from maskrcnn_jax.config import Config\n\n"
        "def get_config():\n    return Config(modle=1)\n",
        "value": config().replace("return config", "config.batch_size = 'two'\n    return config"),
    }
    for name, content in files.items():
        (folder / f"{name}.py").write_text(content)


PREDICT = "predict D/in/a.png --output D/out --weights"
EVALUATE = "evaluate --weights RUN --output D/out"
BROWSE = "data browse --output D/out"
ANNOTATED = f"{BROWSE} --images D/in --annotations"
PREPARE = "data prepare --images D/in --split train --output D/out --annotations"
SPLIT = "data split --images D/in --output D/out --annotations"
PLAN = "plan --devices 1 --config"
PARITY = "parity --random v1"

MISTAKES = [
    ("", "required: COMMAND"),
    ("predcit", "invalid choice: 'predcit'.*predict"),
    (f"{PREDICT} RUN --treshold 1", "unrecognized arguments: --treshold"),
    ("predict --weights RUN --output D/out", "required: IMAGE"),
    (
        "predict '' --weights RUN --output D/out",
        "IMAGE: is empty; for the folder you are in, give .",
    ),
    (
        "predict D/in/a.png --weights RUN --output ''",
        "--output: is empty; for the folder you are in, give .",
    ),
    (f"{PREDICT} ''", "--weights: is empty"),
    (
        "predict D/in/absent.png --output D/out --weights RUN",
        "no file, folder or match for .*in/absent.png",
    ),
    (
        "predict D/empty --output D/out --weights RUN",
        "no image or video in .*empty; for its subfolders, give",
    ),
    ("predict D/in/*.jpg --output D/out --weights RUN", r"match for .*in/\*.jpg"),
    (
        "predict D/in/a.png --output D/in --weights RUN",
        "in/a.png would overwrite what the command reads: give another directory",
    ),
    (
        "predict D/in/a.png --output D/text.txt --weights RUN",
        "--output .*text.txt is a file.*: give a directory",
    ),
    ("predict D/in/a.png --output D/text.txt/out --weights RUN", "--output .*: give a directory"),
    (
        f"{PREDICT} D/absent.pth",
        'no weight file and no run directory .*absent.pth; expected .* "COCO_V1"',
    ),
    (f"{PREDICT} coco", 'no weight file and no run directory coco; .* "COCO_V1"'),
    (
        f"{PREDICT} D/text.pth",
        "text.pth cannot be read as weights: it begins with .*; expected a state dict",
    ),
    (f"{PREDICT} D/text.npz", "text.npz cannot be read as weights"),
    (f"{PREDICT} D/text.safetensors", "text.safetensors cannot be read as weights"),
    (f"{PREDICT} D/in/a.png", "a.png cannot be read as weights: it is a PNG image"),
    (f"{PREDICT} D/other.npz", "other.npz cannot be loaded: it is no detector that we know"),
    (f"{PREDICT} D/empty", "empty is not a run directory: it has no config.json"),
    (f"{PREDICT} D/broken_run", "broken_run/config.json is not valid JSON"),
    (f"{PREDICT} D/old_run", "old_run/config.json: ModelConfig has no field 'dpeth'"),
    (f"{PREDICT} D/bare_run", "bare_run is not a whole run directory: it has no categories.json"),
    (
        f"{PREDICT} RUN --score-threshold -0.1",
        "--score-threshold: must be a number from 0 to 1, got -0.1",
    ),
    (
        f"{PREDICT} RUN --score-threshold half",
        "--score-threshold: must be a number from 0 to 1, got half",
    ),
    (
        f"{PREDICT} RUN --score-threshold nan",
        "--score-threshold: must be a number from 0 to 1, got nan",
    ),
    (f"{PREDICT} RUN --top-k 0", "--top-k: must be a whole number of at least 1, got 0"),
    (
        f"{PREDICT} RUN --top-k 1000",
        "top_k must be from 1 to 5, .*, got 1000; for more, build the model with more",
    ),
    ("predict D/in/a.png --output D/out", "--weights --artifact is required"),
    (
        "predict D/in/a.png --output D/out --artifact D/absent",
        "there is no exported artifact .*absent",
    ),
    (
        "predict D/in/a.png --output D/out --artifact D/other.npz",
        "other.npz cannot be read as an exported artifact",
    ),
    (
        "predict D/in/a.png --output D/out --artifact D/other.npz --augment",
        "use --augment with --weights",
    ),
    ("export --weights RUN D/absent/new", "there is no directory .*absent: make it first"),
    ("export --weights RUN D/empty --force", "empty is a directory: give the name of a file in it"),
    (
        "export --weights RUN D/new.npz --batch 1000000000",
        "--batch: must be .* from 1 to 1024, got 1000000000",
    ),
    ("export --weights D/text.pth D/new", "text.pth cannot be read as weights"),
    ("evaluate --weights D/other.npz", "other.npz does not say on which data: give --config"),
    (
        "evaluate --weights D/other.npz --config D/absent_.py",
        "there is no config file .*absent_.py",
    ),
    (f"{EVALUATE} --config D/absent_.py", "there is no config file .*absent_.py"),
    (f"{EVALUATE} --config D/text.txt", "text.txt is not a Python file"),
    (f"{EVALUATE} --config D/syntax.py", "syntax.py, line 1: "),
    (f"{EVALUATE} --config D/name.py", "name.py, line 2: NameError: .*'Cofnig'"),
    (f"{EVALUATE} --config D/package.py", "package.py, line 1: .*'no_such_package'"),
    (
        f"{EVALUATE} --config D/nothing.py",
        "get_config of .*nothing.py must return a Config, got NoneType",
    ),
    (f"{EVALUATE} --config D/function.py", "function.py has no function get_config"),
    (f"{EVALUATE} --config D/field.py", "field.py, line 4: TypeError: .*'modle'"),
    (f"{EVALUATE} --config D/absent.py", "there is no annotation file .*nowhere.json"),
    (
        f"{EVALUATE} --config D/renamed.py",
        "the model does not know category 1 'apple' of the data set, which is 'disc'.*fresh_heads",
    ),
    (
        f"{EVALUATE} --config D/lvis.py",
        "other entries have the fields of LVIS, but image id 2 has no list neg_category_ids",
    ),
    (f"{EVALUATE} --config D/cut.py", "image id 1: cannot read the image .*cut/a.png: .*truncated"),
    (
        f"{EVALUATE} --report D/report.pdf",
        r"--report has to be a file that ends in .html, got .*report.pdf",
    ),
    (
        f"{EVALUATE} --report D/text.txt/report.html",
        "the folder of --report .*text.txt is a file, or is in one",
    ),
    (
        "evaluate --weights D/other.npz --config D/good.py --report D/text.txt/a.html",
        "folder of --report .*is a file",
    ),
    (
        "evaluate --weights RUN --output D/text.txt",
        "--output .*text.txt is a file.*: give a directory",
    ),
    ("convert D/absent.npz D/new.npz", "no weight file and no run directory .*absent.npz"),
    ("convert D/text.pth D/new.bin", "new.bin must end in one of .npz, .pth, .safetensors"),
    ("convert D/text.pth D/other.npz", "other.npz exists and was not written by .*: --force"),
    ("convert D/other.npz D/other.npz --force", "other.npz would overwrite what the command reads"),
    ("convert D/text.pth D/absent/new.npz", "there is no directory .*absent: make it first"),
    (BROWSE, "give either --config FILE, or --images DIR and --annotations JSON"),
    (
        f"{BROWSE} --images D/in",
        "give either --config FILE, or --images DIR and --annotations JSON",
    ),
    (f"{ANNOTATED} D/nowhere.json", "there is no annotation file .*nowhere.json"),
    (f"{ANNOTATED} D/in", "in is a folder: give the json file in it"),
    (f"{ANNOTATED} D/in/a.png", "a.png is not a text file"),
    (f"{ANNOTATED} D/broken.json", "broken.json is not valid JSON: line 1, column 13"),
    (
        f"{ANNOTATED} D/list.json",
        "list.json: expected an object with images, annotations and categories",
    ),
    (f"{ANNOTATED} D/uncategorised.json", "uncategorised.json: there are no categories: list"),
    (f"{ANNOTATED} D/empty.json", "there are no images to draw"),
    (
        f"{BROWSE} --images D/nowhere --annotations D/good.json",
        "there is no image folder .*nowhere",
    ),
    (f"{ANNOTATED} D/good.json --category dog", "no category is called 'dog'; there are disc"),
    (f"{ANNOTATED} D/good.json --image-id 9", "no image has the id 9"),
    (
        f"{ANNOTATED} D/good.json --side 1000000",
        "--side: must be a whole number from 1 to 4096, got 1000000",
    ),
    (f"{ANNOTATED} D/good.json --count 0", "--count: must be a whole number of at least 1, got 0"),
    (
        f"{BROWSE} --config D/good.py --set data.max=3",
        "'data.max=3' names no field of the config: write FIELD=VALUE",
    ),
    (
        f"{BROWSE} --config D/good.py --set data.max_instances=many",
        "data.max_instances must be of type int.*'many'",
    ),
    (
        f"{BROWSE} --config D/good.py --set data.source=voc",
        "data.source must be one of coco, tfds, shapes; got 'voc'",
    ),
    (f"{SPLIT} D/broken.json", "broken.json is not valid JSON: line 1, column 13"),
    (f"{SPLIT} D/good.json --fraction 20", "--fraction: must be a number from 0 to 1, got 20"),
    (f"{PREPARE} D/nowhere.json", "there is no annotation file .*nowhere.json"),
    (f"{PREPARE} D/good.json --split test", "--split: invalid choice: 'test' .*train'?, '?val"),
    (
        "data prepare --images D/cut --annotations D/good.json --split val --output D/out",
        "cut/a.png: .*truncated",
    ),
    (
        f"{PLAN} D/good.py --bucket 800",
        "--bucket: must be a height and a width, as in 800x1344, got 800",
    ),
    (
        f"{PLAN} D/good.py --output D/absent/plan.json",
        "there is no directory .*absent: make it first",
    ),
    (
        f"{PLAN} D/good.py --set model.backbone.depth=42",
        "model.backbone.depth must be one of 18, 34, 50, 101, 152; got 42",
    ),
    (
        f"{PLAN} D/good.py --set model.dtype=float17",
        "model.dtype must be one of float32, bfloat16; got 'float17'",
    ),
    (
        f"{PLAN} D/good.py --set data.buckets=((100,100),)",
        "data.buckets must be pairs of multiples of 32",
    ),
    (f"{PLAN} D/value.py", "batch_size must be of type int, got 'two'"),
    (f"{PARITY} D/in/a.png --weights RUN", "--weights: not allowed with argument --random"),
    (f"{PARITY} D/in/absent.png", "no image .*absent.png|needs torch|compiled operators"),
]


@pytest.mark.parametrize(
    "arguments, message", MISTAKES, ids=[arguments or "nothing" for arguments, _ in MISTAKES]
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments, message, folder, request, capsys):
    if "RUN" in arguments:  # RUN stands for the run directory with the stand-in model.
        arguments = arguments.replace("RUN", str(request.getfixturevalue("run_directory")))
    try:
        code = main([argument.replace("D/", f"{folder}/") for argument in shlex.split(arguments)])
    except SystemExit as exit:  # argparse exits so.
        code = exit.code
    printed = capsys.readouterr().err
    assert code == 2, printed
    assert "Traceback" not in printed
    said = [line for line in printed.splitlines() if line.startswith("maskrcnn-jax")]
    assert len(said) == 1 and re.search(message, said[0]), printed


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
def test_a_mistake_in_training_too(flag, config, message, folder, tmp_path, monkeypatch, capsys):
    arguments = ["train.py", f"--config={config}", f"--workdir={tmp_path}/run", *flag.split()]
    arguments = [argument.replace("D/", f"{folder}/") for argument in arguments]
    assert_training_refuses(arguments, message, monkeypatch, capsys)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_tilde_in_workdir_is_the_home_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").write_text("a file")
    arguments = ["train.py", f"--config={folder}/good.py", "--workdir=~/run"]
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
def test_training_that_runs_out_of_memory(error, folder, tmp_path, monkeypatch, capsys):
    def run_out(config, workdir, announce, command):
        raise error

    monkeypatch.setattr(training_loop, "train", run_out)
    arguments = ["train.py", f"--config={folder}/good.py", f"--workdir={tmp_path}/run"]
    message = (
        "out of memory: Unable to allocate.*; use .* a smaller batch_size; .*rematerialise=true"
    )
    assert_training_refuses(arguments, message, monkeypatch, capsys)


def assert_training_refuses(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", arguments)  # ml_collections reads the changes from there.
    try:
        with pytest.raises(SystemExit) as exit:
            train.main(train.parse(arguments))
    finally:
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
    printed = capsys.readouterr().err
    assert exit.value.code == 2, printed
    assert "Traceback" not in printed
    (said,) = [line for line in printed.splitlines() if line.startswith("train.py:")]
    assert re.search(message, said), printed


@pytest.mark.parametrize("flag", ["--config={}", "-config={}", "--config {}"])
def test_a_mistake_in_a_config_is_found_however_the_file_is_given(flag, folder):
    arguments = ["train.py", "--force", *flag.format(folder / "syntax.py").split()]
    assert "syntax.py, line 1" in str(exits.explain(KeyError("config"), arguments))


@pytest.mark.parametrize(
    "command, message",
    [
        (
            "-m maskrcnn_jax predict nowhere.jpg --weights x --output y",
            "match for nowhere.jpg",
        ),
        ("train.py --config=D/syntax.py --workdir=D/run", "syntax.py, line 1"),
        ("-m maskrcnn_jax train --config D/good.py", "maskrcnn-jax train: flag --workdir=None"),
    ],
)
def test_a_mistake_in_a_process_of_its_own(command, message, folder):
    arguments = [argument.replace("D/", f"{folder}/") for argument in command.split()]
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
