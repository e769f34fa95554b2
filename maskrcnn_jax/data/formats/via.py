"""VGG Image Annotator, versions 1 and 2: one json file with the regions of all images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskrcnn_jax.data import annotation_files
from maskrcnn_jax.data.findings import short
from maskrcnn_jax.data.formats import files, geometry
from maskrcnn_jax.data.formats.collection import Collection, Entry
from maskrcnn_jax.data.outlines import NO_NUMBERS, TOO_FEW, Unusable

NAMELESS = "object"  # The category if no attribute names one.


def matches(source: Path) -> bool:
    """Whether a file is a project or an export of VIA."""
    return source.is_file() and any(map(_is_via, files.first_json(source)))


def image_folder(source: Path) -> Path:
    """Images lie beside the json file."""
    return files.folder(source)


def _is_via(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    if "_via_img_metadata" in content:
        return True
    entries = list(content.values())[:20]
    return any(isinstance(x, dict) and "filename" in x and "regions" in x for x in entries)


def read(source: Path, collection: Collection, attribute: str | None = None) -> None:
    """Reads a file.

    Args:
        source: The json file.
        collection: Gets images and objects.
        attribute: The attribute of regions that names the class. By default the only one; without
            any, all objects are of one category.

    Raises ValueError if the file cannot be read, or regions have several attributes.
    """
    content = annotation_files.read(source)
    if not _is_via(content):
        raise ValueError(f"{source} is no json of VIA 1 or 2: it has no images with regions")
    entries = content.get("_via_img_metadata", content)
    if not isinstance(entries, dict):
        raise ValueError(f"{source}: expected an object under _via_img_metadata")
    attribute = attribute or _attribute(entries, source)
    for key, entry in entries.items():
        if key.startswith("_via_"):
            continue
        if not isinstance(entry, dict):
            collection.findings.add("images left out, which are no objects", key, "image")
            continue
        image = collection.image(entry.get("filename"), short(key))
        for index, region in _regions(entry) if image is not None else ():
            where = f"regions[{index}] of {short(entry['filename'])}"
            try:
                outline = _outline(region)
                collection.add(image, _name(region, attribute), [outline], where)
            except Unusable as problem:
                collection.leave_out(problem, where)


def _regions(entry: Entry) -> Iterator[tuple[Any, Any]]:
    """The regions with their numbers: a list in version 2, an object in version 1."""
    regions = entry.get("regions") or []
    return iter(regions.items()) if isinstance(regions, dict) else enumerate(_listed(regions))


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _attribute(entries: Entry, source: Path) -> str | None:
    """The only attribute that regions have, or None."""
    found: dict[str, None] = {}
    for entry in (entry for entry in entries.values() if isinstance(entry, dict)):
        for _, region in _regions(entry):
            own = region.get("region_attributes") if isinstance(region, dict) else None
            found |= dict.fromkeys(own if isinstance(own, dict) else ())
    if len(found) > 1:
        names = short(", ".join(found), 200)
        raise ValueError(f"{source}: --attribute says which names the class, of {names}")
    return next(iter(found), None)


def _name(region: Entry, attribute: str | None) -> Any:
    """The class of a region: the value of an attribute, or the only choice among check boxes."""
    if attribute is None:
        return NAMELESS
    own = region.get("region_attributes")
    value = own.get(attribute) if isinstance(own, dict) else None
    if isinstance(value, dict):
        chosen = [name for name, is_chosen in value.items() if is_chosen in (True, "true")]
        if len(chosen) > 1:
            raise Unusable("which have several classes")
        return chosen[0] if chosen else None
    return value


def _outline(region: Any) -> list:
    """The polygon of a region. Raises Unusable."""
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise Unusable("which have no shape_attributes")
    kind = shape.get("name")

    def values(*names: str) -> list[float]:
        return geometry.numbers(*(shape.get(name) for name in names))

    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list):
            raise Unusable(TOO_FEW)
        if len(xs) != len(ys):
            raise Unusable(NO_NUMBERS)
        return [[coordinate for point in zip(xs, ys, strict=True) for coordinate in point]]
    if kind == "rect":
        x, y, width, height = values("x", "y", "width", "height")
        return geometry.rectangle(x, y, x + width, y + height)
    if kind == "circle":
        return geometry.ellipse(*values("cx", "cy", "r", "r"))
    if kind == "ellipse":
        angle = geometry.numbers(shape.get("theta", 0))[0]
        return geometry.ellipse(*values("cx", "cy", "rx", "ry"), angle)
    raise Unusable(f"whose shape is a {short(kind)}, which has no area")
