"""The pages that are made from code: settings, commands, API, and links between files."""

import re

import pytest

from docs.site import api_pages, command_page, line_breaks, links, settings_page
from maskrcnn_jax import settings
from maskrcnn_jax.config import Config
from tests.markdown import ROOT

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_each_setting_has_a_row_with_its_default_and_a_meaning():
    rows = re.findall(
        r"^\| `([\w.]+)` \| `(.*?)` \| (.*?)\*.*\* \|$", settings_page.markdown(), re.M
    )
    assert {name: default for name, default, _ in rows} == {
        each.name: repr(each.value) for each in settings.fields(Config())
    }
    assert [name for name, _, meaning in rows if len(meaning) < 4] == []


def test_the_range_of_a_setting():
    page = settings_page.markdown()
    assert "Anchors per image in the loss. *int, at least 1*" in page
    assert "*int or None, at least 1*" in page


def test_comments_stand_above_beside_and_at_the_type():
    source = '''
# A kind.
Kind = str

class Part:
    """A part."""

    a: int = 1  # Beside a.
    b: int = 2
    # Above c,
    # on two lines.
    c: Kind = "x"

    d: dict = {
        "x": 1,
    }  # Beside d.
'''
    assert settings_page.comments_of(source) == {
        "Part": {
            "a": "Beside a.",
            "b": "",
            "c": "Above c, on two lines. A kind.",
            "d": "Beside d.",
        }
    }


def test_every_command_has_its_help():
    sections = dict(command_page.helps())
    shown = re.findall(r"^    (\w+) ", sections["maskrcnn-jax"], re.M)
    assert "predict" in shown and "doctor" in shown
    assert {f"maskrcnn-jax {name}" for name in shown} <= sections.keys()
    assert "--workdir" in sections["maskrcnn-jax train"]
    assert (
        "maskrcnn-jax data split" in sections
        and "--fraction" in sections["maskrcnn-jax data split"]
    )
    assert all(len(text) > 50 for text in sections.values())
    assert max(map(len, "\n".join(sections.values()).splitlines())) <= 100
    assert max(map(len, sections["maskrcnn-jax train"].splitlines())) <= 80


def test_every_module_has_a_place_in_the_api():
    pages = api_pages.pages(ARCHITECTURE)
    found = [name for page in pages for part in page.parts for name in api_pages.modules_of(part)]
    files = [
        path
        for path in api_pages.PACKAGE.rglob("*.py")
        if path.read_text().strip() and "cli" not in path.parts and path.stem != "__main__"
    ]
    assert len(found) == len(set(found))
    assert set(map(api_pages._module, files)) - set(found) == {"maskrcnn_jax"}
    assert len({page.path for page in pages}) == len(pages)


def test_the_index_of_the_api_links_the_public_names_and_all_pages():
    pages = api_pages.pages(ARCHITECTURE)
    text = api_pages.index(pages)
    assert "[Detector][maskrcnn_jax.detector.Detector]" in text
    assert all(f"]({page.path.removeprefix('api/')})" in text for page in pages)


@pytest.mark.parametrize(
    "page, link, expected",
    [
        ("docs/a.md", "../README.md#install", "index.md#install"),
        ("docs/a.md", "speed.md", "speed.md"),
        ("README.md", "docs/speed.md#cpus", "speed.md#cpus"),
        ("docs/speed.md", "../benchmarks/results/growth.png", "benchmarks/results/growth.png"),
        ("docs/pods.md", "../launch", "launch.md"),
        ("benchmarks/results/amd-epyc.md", "../../docs/speed.md", "../../speed.md"),
        ("docs/a.md", "https://jax.dev", "https://jax.dev"),
    ],
)
def test_links_lead_to_the_same_place_on_the_site(page, link, expected):
    assert links.rewrite(f"[x]({link})", ROOT / page) == f"[x]({expected})"


def test_code_keeps_its_links():
    text = "`[x](../README.md)`\n```\n[x](../README.md)\n```\n"
    assert links.rewrite(text, ROOT / "docs" / "speed.md") == text
    assert links.leading_outside(text, ROOT / "docs" / "speed.md") == set()
    assert links.leading_outside("[x](../launch)", ROOT / "docs" / "speed.md") == {ROOT / "launch"}


def test_a_folder_becomes_a_page_with_its_files():
    text = links.as_page(ROOT / "launch")
    assert text.startswith("# launch\n") and "## node.sh\n\n```sh\n#!" in text


def test_a_notebook_becomes_prose_and_code():
    text = links.as_page(ROOT / "notebooks")
    assert "## 1_look_inside.py\n\n### Detect, and look inside\n\nOne photograph" in text
    assert "```python\ndetector = Detector.from_weights(WEIGHTS)\n" in text
    assert "# %%" not in text and "jupytext:" not in text and text.count("```") % 2 == 0


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("model.rpn.num_samples", "model.<wbr>rpn.<wbr>num_<wbr>samples"),
        ("configs/shapes.py", "configs/<wbr>shapes.py"),
        ("(0.485, 0.456)", "(0.485, 0.456)"),
        ("&lt;b&gt; --count 500", "&lt;b&gt; --count 500"),
    ],
)
def test_code_breaks_between_parts_of_names(code, expected):
    page = f"<p><code>{code}</code></p><pre><code>a_b\n</code></pre>"
    changed = page.replace(f"<code>{code}", f'<code class="short">{expected}')
    assert line_breaks.allow(page) == changed


def test_long_code_is_not_short():
    assert line_breaks.allow(f"<code>{'a' * 33}</code>") == f"<code>{'a' * 33}</code>"


def test_a_type_has_no_name_of_a_module():
    assert "*CascadeConfig or None*" in settings_page.markdown()
