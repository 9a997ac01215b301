"""The viewer as one ES module: its parts in `static/` joined, for hosts that take one text.

The page loads the parts as they are. A notebook widget and an exported file need one module: each part's imports are
dropped, and its names stand beside those of the others, so no two parts may define the same one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from attlas.errors import InputError

__all__ = ["STATIC", "viewer_css", "viewer_module"]

STATIC = Path(__file__).parent / "static"
IMPORT = re.compile(r'^import (?:\{[^}]*\}|\w+) from "\./([\w-]+\.js)";\n', re.M)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let) )", re.M)
DEFINED = re.compile(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.M)


@lru_cache(maxsize=1)
def viewer_module() -> str:
    """The text of one module, whose default export has anywidget's `render({model, el})`.

    >>> "import " in viewer_module().split("export default")[0]
    False

    Raises InputError where two parts define the same name.
    """
    parts = _in_order("viewer.js")
    owners: dict[str, str] = {}
    for name in parts:
        for defined in DEFINED.findall(_text(name)):
            if owners.setdefault(defined, name) != name:
                raise InputError(f"{name} and {owners[defined]} both define {defined}: rename one of them")
    return "\n".join(EXPORT.sub("", IMPORT.sub("", _text(name))) for name in parts)


@lru_cache(maxsize=1)
def viewer_css() -> str:
    """What the viewer looks like; all of it applies below its own element."""
    return _text("viewer.css")


def _text(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _in_order(entry: str) -> list[str]:
    """A part and all that it imports, each behind what it imports."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in order or name in above:
            return
        for imported in IMPORT.findall(_text(name)):
            visit(imported, (*above, name))
        order.append(name)

    visit(entry, ())
    return order
