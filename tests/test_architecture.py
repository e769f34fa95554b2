"""The page on architecture: its paths exist, it names all parts, its diagram fits the imports."""

import re
from itertools import product

from tests import markdown
from tests.test_layering import FILES, MAY_IMPORT, PACKAGE, ROOT, part_of

TEXT = (ROOT / "docs" / "architecture.md").read_text()
START = "train.py"  # The only file of the diagram that lies outside of the package.


def paths(text):
    """Files and folders that a text names in code spans."""
    names = (name for span in markdown.spans(text) for name in span.split())
    return {name for name in names if re.fullmatch(r"[\w/]+(\.py|/)", name)}


def exists(path):
    return (PACKAGE / path).exists() or (ROOT / path).exists()


def rows(heading):
    """The rows of the table below a heading."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [line for line in section.splitlines() if line.startswith("|")]
    return found[2:]


def diagram():
    """The parts of each node, and the arrows between nodes."""
    (block,) = (b for b in markdown.blocks(TEXT) if b.language == "mermaid")
    labels = dict(re.findall(r'(\w+)\["(.*?)"\]', block.code))
    arrows = re.findall(r"(\w+) --> (\w+)", re.sub(r'\[".*?"\]', "", block.code))
    return {name: label.split(", ") for name, label in labels.items()}, arrows


def reached(node, arrows):
    """The nodes that arrows lead to."""
    found, new = set(), {node}
    while new:
        new = {end for start, end in arrows if start in new} - found
        found |= new
    return found


def test_paths_exist():
    assert len(paths(TEXT)) > 50
    assert [path for path in paths(TEXT) if not exists(path)] == []


def test_no_part_is_forgotten():
    named = {path.removesuffix(".py") for path in paths(TEXT.partition("## The network, ")[0])}
    assert {part_of(path) for path in FILES} - named == set()


def test_each_addition_names_a_file():
    additions = rows("To add X, touch Y")
    assert len(additions) >= 9 and all(paths(row) for row in additions)
    assert all(paths(row) for row in rows("Where is ...?"))


def test_every_part_has_one_node():
    nodes, _ = diagram()
    parts = [part for node in nodes.values() for part in node if part != START]
    assert sorted(parts) == sorted(MAY_IMPORT)


def test_arrows_never_go_back():
    nodes, arrows = diagram()
    assert arrows and {name for arrow in arrows for name in arrow} == set(nodes)
    assert [node for node in nodes if node in reached(node, arrows)] == []


def test_each_arrow_is_an_import_that_is_allowed():
    nodes, arrows = diagram()
    for start, end in arrows:
        pairs = product(nodes[start], nodes[end])
        assert any(b in MAY_IMPORT.get(a, ()) for a, b in pairs), f"{start} --> {end}"


def test_each_import_that_is_allowed_follows_the_arrows():
    nodes, arrows = diagram()
    node_of = {part: name for name, parts in nodes.items() for part in parts}
    for part, others in MAY_IMPORT.items():
        below = {node_of[part]} | reached(node_of[part], arrows)
        assert {other for other in others if node_of[other] not in below} == set(), part
