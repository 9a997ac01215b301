"""The fenced blocks of a page of documentation, as values.

A page is read as its reader would run it. `sh` and `python` blocks are run in order; a `text` block right behind one is
what it prints. A comment before a block, or in the first lines of a page for all of its blocks, says why they are not
run here: `<!-- not run: needs a GPU -->`. Such a page may leave `sh` out. Other languages, and `text`
elsewhere, are shown alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = ["RUN", "SHOWN", "Block", "read_blocks"]

RUN = ("sh", "python")
SHOWN = ("text", "json")
REASON = re.compile(r"<!-- not run: (?P<reason>.{8,}?) -->")
PAGE_REASON = re.compile(r"<!-- no block of this page is run: (?P<reason>.{8,}?) -->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Lines of one fence. prints: what they print, where that is shown. not_run: why they are not run."""

    language: str
    source: str
    line: int
    prints: str | None = None
    not_run: str | None = None


def read_blocks(page: str) -> list[Block]:
    """The blocks of a page, those of output joined to what prints it; ValueError at a fence that is left open."""
    blocks: list[Block] = []
    all_not_run = PAGE_REASON.search(page)
    fence: tuple[str, int] | None = None
    held: list[str] = []
    behind = False  # nothing but empty lines since a block that is run
    reason: str | None = None
    for number, line in enumerate(page.splitlines(), 1):
        if fence is not None:
            if line.strip() != "```":
                held.append(line)
                continue
            language, begin = fence
            source, fence = "\n".join(held) + "\n", None
            if language == "text" and behind:
                blocks[-1] = replace(blocks[-1], prints=source)
                behind = False
                continue
            why = reason or (all_not_run["reason"] if all_not_run else None)
            language = language or ("sh" if all_not_run else "")
            blocks.append(Block(language=language, source=source, line=begin, not_run=why))
            behind, reason = language in RUN, None
        elif line.startswith("```"):
            fence, held = (line.removeprefix("```").strip(), number), []
        elif found := REASON.fullmatch(line.strip()):
            reason, behind = found["reason"], False
        elif line.strip():
            reason, behind = None, False
    if fence is not None:
        raise ValueError(f"the block at line {fence[1]} is never closed")
    return blocks
