"""The two ways to fuzz: a few fixed examples with all tests, or as many as time allows.

`python -m tests.fuzz` sets the variables of the second way.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.fuzz import guard

COMMON = {
    "deadline": None,  # `guard.limits` limits time, without that of the generator.
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("fixed", derandomize=True, database=None, max_examples=10, **COMMON)
settings.register_profile(
    "long",
    database=DirectoryBasedExampleDatabase(Path(__file__).parents[2] / ".hypothesis"),
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    print_blob=True,
    **COMMON,
)
settings.load_profile("long" if "FUZZ_EXAMPLES" in os.environ else "fixed")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    if "FUZZ_COUNTS" in os.environ:
        Path(os.environ["FUZZ_COUNTS"]).write_text(json.dumps(guard.counts))
