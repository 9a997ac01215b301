"""The table of an atlas in a notebook: what it tells, that names are text in it, and that it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import attlas
from tests.families import BY_NAME, build_model, documents


class Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("th", "td", "code"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


def test_what_it_tells_and_that_names_are_text() -> None:
    family = BY_NAME["bart"]
    names = ["<script>evil()</script>", *(f"d{i}" for i in range(6))]
    inputs = documents(family, lengths=(23, 5, 12, 8, 9, 10, 11))
    atlas = attlas.capture(build_model(family), inputs, "memory://table", ids=names, overwrite=True)
    found = Cells(atlas._repr_html_())
    assert found.tags == {"table", "caption", "code", "tbody", "tr", "th", "td"}
    told = dict(zip(found.cells[1::2], found.cells[2::2], strict=True))
    assert found.cells[0] == "attlas.Atlas memory://table"
    assert told["documents"] == "7 of 7 committed: <script>evil()</script>, d0, d1, d2, d3 and 2 more"
    targets = [len(target) for _, target in inputs]
    assert told["tokens"] == (
        f"78 source tokens, the longest 23, {sum(targets)} target tokens, the longest {max(targets)}"
    )
    assert told["cross attention"] == "2 layers x 4 heads"
    assert told["keeps"].startswith("factors: q, k")


def test_no_torch_is_loaded(demo_folder: Path) -> None:
    code = (
        "import sys, attlas; text = attlas.open_atlas('demo.zarr')._repr_html_(); "
        "assert '4 layers x 4 heads' in text; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=demo_folder, check=True)
