"""The API reference, from docstrings alone and without network: `make docs`, then build/reference/attlas.html.

Ends with status 1, naming each, where pdoc warns or a public name is not on its page.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pdoc
import pdoc.render

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import attlas  # noqa: E402

PAGES = ("attlas", "attlas.analysis", "attlas.plots", "attlas.errors")
NO_PAGES = (r"!attlas\.capture", r"!attlas\.(analysis|plots)\..*")  # rooms and files whose names stand on those above
TARGET = ROOT / "build" / "reference"


def build(target: Path) -> list[str]:
    """Write the pages below target; returns what is wrong, a line each."""
    for name in attlas.__all__:  # pdoc looks into the module's dict, where lazy names are not
        vars(attlas)[name] = getattr(attlas, name)
    pdoc.render.configure(docformat="markdown", show_source=False, footer_text=f"attlas {attlas.__version__}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc("attlas", "attlas.errors", *NO_PAGES, output_directory=target)
    wrong = [str(w.message).splitlines()[0] for w in caught if w.category is UserWarning]  # as which pdoc warns
    for page in PAGES:
        html = (target / Path(*page.split("."))).with_suffix(".html").read_text(encoding="utf-8")
        wrong += [f"{page}.{name} is not on its page" for name in public_names(page) if not on_page(name, html)]
    return wrong


def public_names(page: str) -> list[str]:
    module: Any = sys.modules[page]
    return list(module.__all__)


def on_page(name: str, html: str) -> bool:
    """A section of its own, or for a module a link to its page."""
    return re.search(rf'id="{name}"|href="attlas/{name}\.html"', html) is not None


if __name__ == "__main__":
    found = build(TARGET)
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    print(f"{TARGET.relative_to(ROOT)}/attlas.html")
    sys.exit(1 if found else 0)
