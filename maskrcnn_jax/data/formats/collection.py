"""Collects the images and objects of another format, and makes COCO json of them."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as codec

from maskrcnn_jax import images
from maskrcnn_jax.data import annotation_files, outlines, rle
from maskrcnn_jax.data.findings import Findings, short
from maskrcnn_jax.data.image_folder import ImageFolder
from maskrcnn_jax.data.outlines import Mask, Unusable

Entry = dict[str, Any]


class Collection:
    """Images, objects and categories on their way to COCO json.

    Attributes:
        findings: Every object, image and file that is left out or repaired.
        is_whole: Whether no image and no file is left out.
    """

    def __init__(self, folder: Path, categories: Sequence[Entry] | None = None) -> None:
        """Starts without images.

        Args:
            folder: The images; names are relative to it.
            categories: The ids and names to use. By default names are numbered from 1.
        """
        self.findings, self.is_whole = Findings(), True
        self._folder = ImageFolder(folder)
        self._given = categories
        self._listed: dict[str, None] = {}
        self._images: dict[str, Entry] = {}
        self._objects: dict[str, list[tuple[str, Entry]]] = defaultdict(list)

    @property
    def folder(self) -> Path:
        """The folder that the names of images are relative to."""
        return self._folder.folder

    def list_categories(self, names: Sequence[str]) -> None:
        """Lists the names of a format that has an order of its own, also of unused categories."""
        self._listed |= dict.fromkeys(names)

    def json(self, path: Path, name: str) -> Any:
        """Reads a json file; one that cannot be read is counted, and gives None.

        Args:
            path: The file.
            name: Its name in messages.
        """
        try:
            return annotation_files.parse(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            told = f"{name} ({short(str(error), 60)})"
            return self.leave_out("which cannot be read", told, "file")

    def image(self, name: Any, where: str, size: Sequence[Any] = (None, None)) -> Entry | None:
        """Adds an image, or finds it again.

        Args:
            name: The name of its file, in any notation that `ImageFolder` knows.
            where: The file with its annotations, or another name for messages.
            size: The annotated height and width, or None for both.

        Returns:
            An entry of COCO json with ``file_name``, ``height`` and ``width``; None if the image
            is left out, and counted.
        """
        if not isinstance(name, str) or not name:
            return self.leave_out("which have no file name", where, "image")
        try:
            path = self._folder.path(name)
            found = images.check_image(path)
        except (OSError, ValueError) as error:
            _, is_advice, package = str(error).rpartition(": pip install ")
            reason = "whose file cannot be read"
            if is_advice:
                reason = f"whose file needs a package (pip install {package})"
            if isinstance(error, FileNotFoundError) or "leads out" in str(error):
                reason = f"whose file is not in {self.folder}"
            return self.leave_out(reason, f"{name} ({where})", "image")
        if None not in size and tuple(size) != found:
            reason = "whose annotations are for another size than that of the file"
            return self.leave_out(reason, f"{name} ({where})", "image")
        name = Path(os.path.relpath(path, self.folder)).as_posix()
        if name in self._images:
            kind = "images that are annotated in several places; all of their objects count"
            self.findings.add(kind, f"{name} ({where})", "image")
        entry = {"file_name": name, "height": found[0], "width": found[1]}
        return self._images.setdefault(name, entry)

    def add(
        self, image: Entry, category: Any, parts: Sequence[Any], where: str, is_crowd: bool = False
    ) -> None:
        """Adds an object, unless its category or its mask is unusable, which is counted.

        Args:
            image: As `image` returns it.
            category: The name.
            parts: Masks as `outlines.read` takes them; the object is their union.
            where: The place of the object, for messages.
            is_crowd: Whether it stands for several objects.
        """
        if (name := self._category(category, where)) is None:
            return
        mask = self._mask(image, parts, where)
        if mask is None:
            return
        size = image["height"], image["width"]
        area = int(codec.area(rle.encode(mask, *size)))
        if area == 0:
            return self.leave_out("whose mask covers no pixel", where)
        found = {"bbox": list(outlines.bounds(mask)), "area": area, "segmentation": mask}
        self._append(image, name, found | {"iscrowd": int(is_crowd)})

    def add_box(self, image: Entry, category: Any, box: list[float], where: str) -> None:
        """Adds an object without a mask, which is counted.

        Args:
            image: As `image` returns it.
            category: The name.
            box: x, y, width and height, in pixels.
            where: The place of the object, for messages.
        """
        if (name := self._category(category, where)) is None:
            return
        x, y, width, height = box
        width = min(x + width, image["width"]) - max(x, 0)
        height = min(y + height, image["height"]) - max(y, 0)
        if width <= 0 or height <= 0:
            return self.leave_out("whose box has no area in the image", where)
        kind = "objects with a box only, which a model with masks cannot learn from"
        self.findings.add(kind, where, "object")
        self._append(image, name, {"bbox": box, "area": width * height, "iscrowd": 0})

    def leave_out(self, reason: Any, where: str, of: str = "object") -> None:
        """Counts something that is left out.

        Args:
            reason: Goes on after "objects left out, ".
            where: Its place, for messages.
            of: Its kind: "object", "image" or "file".
        """
        self.is_whole &= of == "object"
        self.findings.add(f"{of}s left out, {reason}", where, of)

    def _append(self, image: Entry, category: str, found: Entry) -> None:
        self._objects[image["file_name"]].append((category, found))

    def _category(self, category: Any, where: str) -> str | None:
        name = str(category) if isinstance(category, int) else category
        if isinstance(category, bool) or not isinstance(name, str) or not name.strip():
            self.leave_out("whose class has no name", where)
            return None
        return name

    def _mask(self, image: Entry, parts: Sequence[Any], where: str) -> Mask | None:
        size = image["height"], image["width"]
        masks, problems = [], []
        for part in parts:
            try:
                mask, repairs = outlines.read(part, *size)
            except Unusable as problem:
                mask, repairs = None, []
                problems.append(problem)
            if mask is not None:
                masks.append(mask)
            for repair in repairs:
                self.findings.add(f"objects {repair}", where, "object")
        if not masks:
            self.leave_out(problems[0] if problems else "which have no outline", where)
            return None
        if problems:
            self.findings.add(f"objects {outlines.PARTS}", where, "object")
        if len(masks) == 1:
            return masks[0]
        if all(isinstance(mask, list) for mask in masks):
            return [polygon for mask in masks for polygon in mask]
        return rle.encode(codec.merge([rle.encode(mask, *size) for mask in masks]), *size)

    def content(self) -> Entry:
        """The COCO json, with images by name and ids from 1.

        Raises ValueError if there is no image, no category, or a name that the given categories
        lack.
        """
        if not self._images:
            reasons = short("; ".join(self.findings.lines()), 1000) or "there is none"
            raise ValueError(f"no image can be used, --images DIR says where they are: {reasons}")
        used = {name for objects in self._objects.values() for name, _ in objects}
        categories = self._categories(used)
        if not categories:
            reasons = short("; ".join(self.findings.lines()), 1000)
            raise ValueError(f"there is no object, and so no category: {reasons}")
        self._compare(entry["name"] for entry in categories)
        ids = {entry["name"]: entry["id"] for entry in categories}
        entries, annotations = [], []
        for image_id, name in enumerate(sorted(self._images), start=1):
            entries.append({"id": image_id} | self._images[name])
            for category, found in self._objects[name]:
                own = {"id": len(annotations) + 1, "image_id": image_id}
                annotations.append(own | {"category_id": ids[category]} | found)
        return {"images": entries, "annotations": annotations, "categories": categories}

    def _categories(self, used: set[str]) -> list[Entry]:
        if self._given is None:
            names = [*self._listed, *sorted(used - self._listed.keys())]
            return [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        given = [{"id": entry["id"], "name": entry["name"]} for entry in self._given]
        if missing := sorted(used - {entry["name"] for entry in given}):
            known = short(", ".join(entry["name"] for entry in given), 200)
            raise ValueError(f"--categories lacks {short(', '.join(missing), 200)}: it has {known}")
        return given

    def _compare(self, names: Any) -> None:
        """Counts names that look like another one, which are more often mistakes than classes."""
        plain = defaultdict(list)
        for name in names:
            plain[unicodedata.normalize("NFC", name).strip().casefold()].append(name)
        for same in (same for same in plain.values() if len(same) > 1):
            kind = "categories with a name that differs from another one in notation only"
            for name in same:
                self.findings.add(kind, repr(name), "category")
