"""The page of models has every named network, and no other."""

import re

from maskrcnn_jax import presets
from tests.markdown import ROOT


def test_the_page_names_every_network():
    page = (ROOT / "docs" / "models.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert named == [*presets.PRESETS, *presets.OF_OTHERS]
