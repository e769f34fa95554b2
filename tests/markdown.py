"""Parses a page of Markdown: code blocks, inline code, links and headings."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """The lines between fences, and the REASON of a comment ``not run: REASON`` above them."""

    line: int
    language: str
    code: str
    reason: str | None  # The reason that no test runs the block.


def blocks(text: str) -> list[Block]:
    """Finds all fenced blocks."""
    return [
        Block(
            text.count("\n", 0, match.start("code")),
            match["language"],
            match["code"],
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]


def spans(text: str) -> list[str]:
    """Finds all inline code outside of blocks, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _BLOCK.sub("", text))]


def links(text: str) -> list[str]:
    """Finds the targets of links and images."""
    prose = re.sub(r"`[^`]*`", "``", _BLOCK.sub("", text))
    return re.findall(r"\]\(\s*<?([^)\s>]+)", prose) + re.findall(
        r"""(?:src|href)=["']([^"']+)""", prose
    )


def anchors(text: str) -> set[str]:
    """The anchors of headings, named as on GitHub."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number, unique = 0, name
        while unique in found:
            unique = f"{name}-{(number := number + 1)}"
        found.add(unique)
    return found


def commands(code: str) -> list[str]:
    """The unindented lines of a block, with lines joined at a backslash."""
    return [
        line
        for line in re.sub(r"\\\n\s*", "", code).splitlines()
        if line and not line.startswith((" ", "#"))
    ]
