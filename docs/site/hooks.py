"""Adds to the site what is made from code, and files of the repository outside of `docs/`.

MkDocs calls these functions. `mkdocs.yml` has the pages of `docs/` in order.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site import api_pages, command_page, line_breaks, links, settings_page
from docs.site.links import DOCS, ROOT

_ARCHITECTURE = DOCS / "architecture.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages of the API to the navigation, one section for each table of parts."""
    pages = api_pages.pages(_ARCHITECTURE.read_text())
    sections: dict[str, list] = {page.section: [] for page in pages}
    for page in pages:
        sections[page.section].append({page.title: page.path})
    (reference,) = (item["Reference"] for item in config.nav or [] if "Reference" in item)
    reference.append({"API": ["api/index.md", *({k: v} for k, v in sections.items())]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and the files outside of `docs/` that pages lead to."""
    pages = api_pages.pages(_ARCHITECTURE.read_text())
    made = {page.path: page.markdown() for page in pages}
    made["api/index.md"] = api_pages.index(pages)
    made["settings.md"] = settings_page.markdown()
    made["commands.md"] = command_page.markdown()
    for path in _outside():
        if links.is_picture(path):
            files.append(File.generated(config, links.place(path), abs_src_path=str(path)))
        else:
            made[links.place(path)] = links.as_page(path)
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def _outside() -> list[Path]:
    """The README and all that it and `docs/` lead to, over any number of links."""
    found, new = set(), {ROOT / "README.md", *DOCS.glob("*.md")}
    while new:
        found |= new
        texts = {path: path.read_text() for path in new if path.suffix == ".md"}
        new = set().union(*(links.leading_outside(text, path) for path, text in texts.items()))
        new -= found
    return sorted(path for path in found if not path.is_relative_to(DOCS))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes links that lead outside of `docs/`, and diagrams that would need a script."""
    source = DOCS / page.file.src_uri
    if page.file.generated_by is None:
        markdown = links.rewrite(markdown, source)
    return re.sub(r"^```mermaid\n(.*?)^```$", _as_table, markdown, flags=re.M | re.S)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets lines end between the parts of names, and nowhere else in code."""
    return line_breaks.allow(html)


def _as_table(match: re.Match[str]) -> str:
    """A flowchart as a table of nodes and the nodes that their arrows lead to."""
    labels = dict(re.findall(r'(\w+)\["(.*?)"\]', match[1]))
    names = {name: f"`{label.replace(', ', '`, `')}`" for name, label in labels.items()}
    arrows = re.findall(r"(\w+) --> (\w+)", re.sub(r'\[".*?"\]', "", match[1]))
    lines = ["| | imports |", "|---|---|"]
    for name, label in names.items():
        ends = ", ".join(names[end] for start, end in arrows if start == name)
        lines.append(f"| {label} | {ends or 'none of these'} |")
    return "\n".join(lines)
