"""The page of models has every named network, and no other."""

import re

from maskrcnn_jax import presets
from tests.markdown import ROOT


def test_the_page_names_every_network():
    page = (ROOT / "docs" / "models.md").read_text()
    (section,) = re.findall(r"^## Named networks$(.*?)^## ", page, re.M | re.S)
    named = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert named == [*presets.PRESETS, *presets.OF_OTHERS]
