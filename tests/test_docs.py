"""Links, commands and file names on the pages of documentation are right."""

import re
import shlex

import pytest

from tests import markdown, shown_commands
from tests.markdown import PAGES, ROOT

# ml_collections reads config files by this deprecated method.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_links_lead_somewhere(page):
    for link in markdown.links(page.read_text()):
        assert not broken(link, page), f"{page}: {link}"


def broken(link, page):
    """Whether a link into the repository has no target."""
    if re.match(r"\w+:", link):
        return False
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return True
    return bool(anchor) and anchor not in markdown.anchors(target.read_text())


@every_page
def test_commands_exist_with_their_options(page):
    text = page.read_text()
    for block in markdown.blocks(text):
        if block.language != "python":
            for command in markdown.commands(block.code):
                shown_commands.check(command)
    for span in markdown.spans(text):
        if span.startswith("--config."):
            span = f"python train.py {span}"
        shown_commands.check(span, complete=False)


@pytest.mark.parametrize(
    "page, count", [("README.md", 3), ("docs/detect.md", 7), ("docs/training.md", 6)]
)
def test_pages_show_commands(page, count):
    """Otherwise the test above could pass without finding commands."""
    shown = [
        c
        for block in markdown.blocks((ROOT / page).read_text())
        for c in markdown.commands(block.code)
    ]
    assert sum(shown_commands.check(command) for command in shown) >= count


@every_page
def test_files_that_are_named_are_there(page):
    for span in markdown.spans(page.read_text()):
        if re.fullmatch(r"[\w./-]+", span) and span.startswith(shown_commands.FOLDERS):
            assert (ROOT / span).exists(), f"{page}: {span}"


def test_the_manifest_for_gke_starts_a_training():
    """Otherwise a mistake in the manifest would show on a pod only."""
    text = (ROOT / "launch" / "gke.yaml").read_text()
    arguments = re.findall(r"^ +- (--.*?)(?: #.*)?$", text, re.M)
    assert len(arguments) > 5
    assert shown_commands.check(shlex.join(["python", "train.py", "--distributed", *arguments]))


# The tests above can fail.


@pytest.mark.parametrize(
    "command, complaint",
    [
        ("maskrcnn-jax predikt photo.jpg", "invalid choice: 'predikt'"),
        ("maskrcnn-jax predict photo.jpg --weights COCO_V1 --outptu out", "--output"),
        (
            "maskrcnn-jax data prepare --split test --images i --annotations a --output o",
            "invalid choice: 'test'",
        ),
        (
            "maskrcnn-jax plan --config configs/shapes.py --devices 8 --set model.dtpye=bfloat16",
            "names no field",
        ),
        (
            "maskrcnn-jax plan --config configs/absent.py --devices 8",
            "there is no configs/absent.py",
        ),
        ("python train.py --config=configs/shapes.py", "--workdir"),
        ("python train.py --config=configs/shapes.py --workdir=w --config.model.dpeth=18", "dpeth"),
        ("python train.py --config=configs/shapes.py --workdir=w --config.num_steps=many", "many"),
        ("python train.py --config=configs/shapes.py --workdir=w --proces_id=1", "proces_id"),
        ("launch/processes.sh 2 --config=configs/shapes.py --config.sede=1", "sede"),
        ("launch/absent.sh", "there is no launch/absent.sh"),
        (".venv/bin/python -m maskrcnn_jax.absent", "there is no maskrcnn_jax/absent.py"),
        ("python -m maskrcnn_jax.weights.keras_resnet50 one.npz", "required: output"),
        ("python -m tests.golden.write_torchvision v2", "unrecognized arguments: v2"),
        (
            "python benchmarks/input_pipeline.py --images i --annotations a --batchsize 4",
            "--batchsize",
        ),
        ("cd x && make dmeo", "no target dmeo"),
        ("pip install -e '.[fats]'", "no extra fats"),
    ],
)
def test_wrong_commands_are_found(command, complaint):
    with pytest.raises(shown_commands.WrongCommand, match=re.escape(complaint)):
        shown_commands.check(command)


@pytest.mark.parametrize(
    "span", ["maskrcnn-jax data brouse", "maskrcnn-jax evaluate --report-file", "make tset"]
)
def test_wrong_beginnings_of_commands_are_found(span):
    with pytest.raises(shown_commands.WrongCommand):
        shown_commands.check(span, complete=False)
    assert shown_commands.check("maskrcnn-jax data browse --augmented", complete=False)


def test_broken_links_are_found(tmp_path):
    page = ROOT / "docs" / "scaling.md"
    assert not broken("../README.md#detect-in-ten-lines", page) and not broken(
        "https://jax.dev", page
    )
    assert (
        broken("README.md", page)
        and broken("../README.md#no-such-heading", page)
        and broken("#absent", page)
    )


def test_a_page_is_taken_apart():
    text = """# A `b` (c)!
[x](y.md) `[no](link.md)` ![z](p.png "title") <img src='q.png'>

<!-- not run: it would take hours -->
```python
# A
```

```
a b \\
  c  # d
  e
```
## A b c
"""
    assert markdown.blocks(text) == [
        markdown.Block(5, "python", "# A\n", "it would take hours"),
        markdown.Block(9, "", "a b \\\n  c  # d\n  e\n", None),
    ]
    assert markdown.links(text) == ["y.md", "p.png", "q.png"]
    assert markdown.anchors(text) == {"a-b-c", "a-b-c-1"}
    assert markdown.spans(text) == ["b", "[no](link.md)"]
    assert markdown.commands("a b \\\n  c  # d\n  e\n") == ["a b c  # d"]
