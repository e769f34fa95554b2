"""The tables of settings on the pages for people from other libraries name what exists."""

import dataclasses
import fnmatch
import re
from functools import reduce

import pytest

from maskrcnn_jax.config import Config
from maskrcnn_jax.weights import detectron2_keys, mmdetection_config
from tests.markdown import ROOT

PAGES = sorted((ROOT / "docs").glob("from-*.md"))
PARTS = ("model", "detection", "data", "optimizer", "execution")
MMDETECTION = ("backbone", "neck", "rpn_head", "roi_head", "train_cfg", "test_cfg")


def rows(page):
    """The two columns of the table below "Settings", each as its inline code."""
    section = re.search(r"^## Settings\n(.*?)^## ", page.read_text(), re.M | re.S)[1]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(lines) >= 15
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert all(len(row) == 2 for row in cells)
    return [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in cells]


def is_field(path):
    """Whether a path, perhaps with a value, names a field of a config."""
    path = path.partition("=")[0]
    try:
        reduce(getattr, path.split("."), Config())
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_our_fields_exist(page):
    named = [span for _, ours in rows(page) for span in ours]
    paths = [span for span in named if re.match(r"[a-z_0-9.]+(=|$)", span)]
    assert len(paths) >= 20
    assert [path for path in paths if not is_field(path)] == []


def test_fields_that_do_not_exist_are_found():
    assert is_field("model.rpn.num_convs") and is_field("model.mask_head=None")
    assert not is_field("model.rpn.nms_treshold") and not is_field("modle.rpn")
    assert {field.name for field in dataclasses.fields(Config)} > set(PARTS)


def test_detectron2s_keys_exist_and_are_all_there():
    known = detectron2_keys.FIELDS.keys() | detectron2_keys.CONVERTED.keys()
    others = (*detectron2_keys.FIXED, *detectron2_keys.IGNORED)
    spans = {span for keys, _ in rows(ROOT / "docs" / "from-detectron2.md") for span in keys}
    named = {span for span in spans if re.fullmatch(r"[A-Z0-9_]+(\.[A-Z0-9_]+)*", span)}
    named -= set(detectron2_keys.NORMS)
    unknown = {x for x in named - known if not any(fnmatch.fnmatchcase(x, y) for y in others)}
    assert unknown == set() and known <= named


def test_mmdetections_fields_exist_and_are_all_there():
    known = {*mmdetection_config.FIELDS, *mmdetection_config.CONVERTED}
    others = (*mmdetection_config.FIXED, *mmdetection_config.IGNORED)
    spans = {span for keys, _ in rows(ROOT / "docs" / "from-mmdetection.md") for span in keys}
    named = {x for x in spans if x.partition(".")[0] in MMDETECTION and "." in x}
    unknown = {x for x in named - known if not any(fnmatch.fnmatchcase(x, y) for y in others)}
    assert unknown == set() and {*mmdetection_config.FIELDS, *mmdetection_config.CONVERTED} <= spans
