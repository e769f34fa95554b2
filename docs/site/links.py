"""Maps links between files of the repository to links between pages of the site.

Pages of `docs/` lead to the README, to pictures and to scripts outside of that folder. So that the
site is whole, those files become pages or files of the site.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(\]\(\s*<?|(?:src|href)=[\"'])([^)\s>\"'#]+)")
_CODE = re.compile(r"^```.*?^```$|`[^`]*`", re.M | re.S)
_PICTURES = (".png", ".jpg", ".svg")


def place(path: Path) -> str:
    """The place of a file or folder of the repository in the site."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    inside = path.relative_to(ROOT).as_posix()
    is_page = path.suffix in (".md", *_PICTURES)
    return inside if is_page else f"{inside}.md"


def rewrite(text: str, source: Path) -> str:
    """The text of a page with its links as the site has them.

    Args:
        text: Markdown.
        source: The file that the text comes from, below the root of the repository.
    """
    folder = os.path.dirname(place(source))

    def replace(match: re.Match[str]) -> str:
        target = _target(match[2], source)
        if target is None:
            return match[0]
        return match[1] + os.path.relpath(place(target), folder or ".")

    return _outside_of_code(text, lambda prose: _LINK.sub(replace, prose))


def leading_outside(text: str, source: Path) -> set[Path]:
    """The files and folders outside of `docs/` that a page leads to."""
    found: set[Path] = set()
    for link in _LINK.findall(_CODE.sub("", text)):
        target = _target(link[1], source)
        if target is not None and not target.is_relative_to(DOCS):
            found.add(target)
    return found


def as_page(path: Path) -> str:
    """The Markdown of a file or folder outside of `docs/`, with the links of the site."""
    if path.suffix == ".md":
        return rewrite(path.read_text(), path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    sections = [_section(file) for file in files if file.is_file()]
    return "\n".join([f"# {path.relative_to(ROOT).as_posix()}\n", *sections])


def _section(file: Path) -> str:
    """The code of a file; of a notebook the prose, with the code between."""
    text = file.read_text().rstrip() + "\n"
    if "format_name: percent" not in text:
        return f"## {file.name}\n\n```{file.suffix[1:] or 'text'}\n{text}```\n"
    pieces = [f"## {file.name}\n"]
    for cell in text.split("# %%")[1:]:
        kind, _, content = cell.partition("\n")
        if kind.strip() == "[markdown]":
            prose = re.sub("^# ?", "", content.strip(), flags=re.M)
            pieces.append(re.sub("^#", "###", prose, flags=re.M) + "\n")
        else:
            pieces.append(f"```python\n{content.strip()}\n```\n")
    return "\n".join(pieces)


def is_picture(path: Path) -> bool:
    return path.suffix in _PICTURES


def _target(link: str, source: Path) -> Path | None:
    """The file or folder of the repository that a link leads to."""
    if re.match(r"\w+:", link):
        return None
    target = (source.parent / link).resolve()
    return target if target.exists() and target.is_relative_to(ROOT) else None


def _outside_of_code(text: str, change: Callable[[str], str]) -> str:
    pieces, end = [], 0
    for match in _CODE.finditer(text):
        pieces += [change(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*pieces, change(text[end:])])
