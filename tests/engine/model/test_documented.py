"""The page on models names what is tested."""

from __future__ import annotations

import re
from pathlib import Path

from tests.families import FAMILIES

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_families_of_the_page_are_those_that_are_tested() -> None:
    found = re.search(r"<!-- families: .*? -->\n(.*?)<!-- /families -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    assert found.group(1).replace("\n", " ").strip().split(", ") == sorted(family.name for family in FAMILIES)
