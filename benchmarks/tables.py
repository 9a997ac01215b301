"""Markdown tables and numbers as the documents print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["cell", "gigabytes", "markdown_table", "seconds", "significant", "times"]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any] | Mapping[str, Any]]) -> str:
    """A row is a sequence as long as `columns`, or a mapping by their names; raises ValueError where one is neither."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        values = [row.get(name) for name in columns] if isinstance(row, Mapping) else list(row)
        if len(values) != len(columns):
            raise ValueError(f"a row has {len(values)} cells and the table {len(columns)} columns: {values}")
        lines.append("| " + " | ".join(map(cell, values)) + " |")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """None is empty; whole numbers have their thousands parted; others have three significant digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return significant(value)
    return str(value).replace("|", "\\|").replace("\n", " ")


def significant(value: float, digits: int = 3) -> str:
    """1234.5 -> 1,234; 12.345 -> 12.3; 0.012345 -> 0.0123; 1.2e-6 -> 1.2e-06."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    places = max(0, digits - 1 - int(f"{value:e}".split("e")[1]))
    return f"{value:,.{places}f}"


def seconds(value: float) -> str:
    return f"{significant(value)} s"


def gigabytes(value: float) -> str:
    return f"{significant(value / 1e9)} GB" if value >= 1e8 else f"{significant(value / 1e6)} MB"


def times(value: float) -> str:
    return f"{significant(value)} x"
