"""The pages of the API: one for each row of the tables of parts in `docs/architecture.md`.

`tests/test_architecture.py` holds that these tables name every file and folder of the package.
"""

import re
from pathlib import Path
from typing import NamedTuple

from docs.site.links import ROOT

PACKAGE = ROOT / "maskrcnn_jax"
COMMANDS = "cli/"  # The page of commands describes these.
_INTRODUCTION = """# API

Every public function and class, with shapes, dtypes, units, errors and source code. Axes are named
as in [structures](structures.md): `b` images, `h w` pixels, `a` anchors, `p` proposals, `r` RoIs,
`d` detections. These names are imported from `maskrcnn_jax` itself:

"""


class Page(NamedTuple):
    """A page about some files and folders of the package."""

    section: str  # The heading of its table.
    parts: tuple[str, ...]  # As the table names them: relative to the package, folders with "/".
    contents: str

    @property
    def title(self) -> str:
        return ", ".join(part.removesuffix(".py") for part in self.parts)

    @property
    def path(self) -> str:
        first = re.sub(r"\W", "", self.parts[0].removesuffix(".py"))
        return f"api/{first or 'maskrcnn_jax'}.md"

    def markdown(self) -> str:
        """The headings of the modules, which mkdocstrings replaces by their contents."""
        modules = [f"::: {name}\n" for part in self.parts for name in modules_of(part)]
        contents = self.contents[:1].upper() + self.contents[1:]
        return "\n".join([f"# {self.title}", "", f"{contents}.", "", *modules])


def pages(architecture: str) -> list[Page]:
    """The pages, in the order of the tables of `docs/architecture.md`."""
    found, section = [], ""
    for line in architecture.partition("\n## The network, ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|- "):
            continue
        parts = tuple(re.findall(r"`([\w/]+(?:\.py)?)`", cells[0]))
        if not parts:
            section = cells[0][:1].upper() + cells[0][1:]
        elif COMMANDS not in parts:
            found.append(Page(section, parts, cells[1]))
    return found


def modules_of(part: str) -> list[str]:
    """The modules of a file, or of a folder and the folders in it, that have public contents."""
    path = PACKAGE / part
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [_module(file) for file in files if file.read_text().strip()]


def _module(file: Path) -> str:
    parts = ("maskrcnn_jax", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def index(all_pages: list[Page]) -> str:
    """The page with the public names, and links to the others."""
    source = (PACKAGE / "__init__.pyi").read_text()
    public = re.findall(r"^from (\S+) import \w+ as (\w+)$", source, re.M)
    lines = [f"- [{name}][{module}.{name}]" for module, name in public]
    for section in dict.fromkeys(page.section for page in all_pages):
        lines += ["", f"## {section}", "", "| module | contents |", "|---|---|"]
        own = [page for page in all_pages if page.section == section]
        lines += [f"| [{page.title}]({Path(page.path).name}) | {page.contents} |" for page in own]
    return _INTRODUCTION + "\n".join(lines) + "\n"
