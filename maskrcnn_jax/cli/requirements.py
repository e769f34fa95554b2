"""Compares installed packages with the versions that a package asks for."""

import importlib.metadata
import itertools
import operator
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class Requirement(NamedTuple):
    """One line of a package's metadata, such as ``av>=14; extra == 'video'``."""

    name: str
    versions: str  # Such as ">=14,<16"; empty if all versions will do.
    extra: str | None  # The extra that needs the package; None if the package itself does.


def of(package: str) -> list[Requirement]:
    """The requirements of an installed package; those of some platforms only are left out.

    Returns no requirement if the package is not installed, as in a checkout.
    """
    try:
        lines = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        needed, _, marker = line.partition(";")
        extra = re.fullmatch(r"\s*extra\s*==\s*['\"]([\w.-]+)['\"]\s*", marker)
        if marker and not extra:
            continue
        match = re.match(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^()]*)", needed)
        if match:
            found.append(Requirement(match[1], match[2].strip(), extra[1] if extra else None))
    return found


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet(package: str) -> Iterator[str]:
    """Says which packages are missing, or have another version than ``package`` asks for.

    A package of an extra may be missing, but if it is there its version must be right. Where the
    package itself needs it too, the extra is ignored: jax has one for its oldest jaxlib.
    """
    told, needed = set(), of(package)
    always = {name for name, _, extra in needed if extra is None}
    for name, versions, extra in needed:
        version = installed(name)
        if extra is not None and name in always:
            continue
        if version is None and extra is None:
            told.add(f"{package} needs {name}, which is not installed")
        elif version is not None and not allows(versions, version):
            told.add(f"{package} needs {name}{versions}, but {name} {version} is installed")
    yield from sorted(told)


def allows(versions: str, version: str) -> bool:
    """Whether clauses such as ``>=0.10.2,<1`` or ``==0.0.42.*`` allow a version.

    Only the numbers of a release are compared, so 2.13.0+cpu and 2.13.0rc1 count as 2.13.0. A
    clause with another operator allows every version.
    """
    for clause in filter(None, versions.replace(" ", "").split(",")):
        match = re.match(r"(==|!=|<=|>=|<|>)([\d.]+)(\*?)", clause)
        if match is None:
            continue
        wanted, has = _numbers(match[2]), _numbers(version)
        if match[3]:
            has = has[: len(wanted)]
        pairs = list(itertools.zip_longest(has, wanted, fillvalue=0))
        if not _COMPARE[match[1]]([a for a, _ in pairs], [b for _, b in pairs]):
            return False
    return True


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in match[0].split(".")] if match else []
