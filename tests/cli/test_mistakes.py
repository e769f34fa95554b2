"""Mistakes of users at the command line: each ends in exit code 2 and one clear message."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn_jax.cli.main import main

ROOT = Path(__file__).parents[2]


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
def test_a_mistake_is_one_message_and_exit_code_2(arguments, message, wrong_files, request, capsys):
    if "RUN" in arguments:  # RUN stands for the run directory with the stand-in model.
        arguments = arguments.replace("RUN", str(request.getfixturevalue("run_directory")))
    try:
        code = main(
            [argument.replace("D/", f"{wrong_files}/") for argument in shlex.split(arguments)]
        )
    except SystemExit as exit:  # argparse exits so.
        code = exit.code
    printed = capsys.readouterr().err
    assert code == 2, printed
    assert "Traceback" not in printed
    said = [line for line in printed.splitlines() if line.startswith("maskrcnn-jax")]
    assert len(said) == 1 and re.search(message, said[0]), printed


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
def test_a_mistake_in_a_process_of_its_own(command, message, wrong_files):
    arguments = [argument.replace("D/", f"{wrong_files}/") for argument in command.split()]
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
