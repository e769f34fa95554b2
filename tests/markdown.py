"""What a page of Markdown holds: blocks of code, pieces of code in its text, links, headings."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """Lines between fences; ``not run: REASON`` in a comment above them, which is not rendered, is their reason."""

    line: int
    language: str
    code: str
    reason: str | None  # Why no test runs it.


def blocks(text: str) -> list[Block]:
    """All fenced blocks."""
    return [
        Block(text.count("\n", 0, match.start("code")), match["language"], match["code"], match["reason"])
        for match in _BLOCK.finditer(text)
    ]


def spans(text: str) -> list[str]:
    """Pieces of code in the text, outside of blocks, each in one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _BLOCK.sub("", text))]


def links(text: str) -> list[str]:
    """Where links and pictures point to."""
    prose = re.sub(r"`[^`]*`", "``", _BLOCK.sub("", text))
    return re.findall(r"\]\(\s*<?([^)\s>]+)", prose) + re.findall(r"""(?:src|href)=["']([^"']+)""", prose)


def anchors(text: str) -> set[str]:
    """The names by which headings can be linked to, made as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number, unique = 0, name
        while unique in found:
            unique = f"{name}-{(number := number + 1)}"
        found.add(unique)
    return found


def commands(code: str) -> list[str]:
    """The commands in a block: its lines that are not indented, joined where one ends with a backslash."""
    return [line for line in re.sub(r"\\\n\s*", "", code).splitlines() if line and not line.startswith((" ", "#"))]
