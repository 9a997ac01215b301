"""A tile of weights as a table of text: queries down, keys across, shaded by weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

__all__ = ["label", "print_row", "print_tile"]

CELL = 6
SHADES = ("grey42", "grey62", "grey82", "bold yellow", "bold red")
LIMITS = (0.01, 0.05, 0.2, 0.5)
BAR = 32


def label(token: str, width: int) -> str:
    """A token on `width` columns: blanks made visible, long ones cut."""
    text = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    text = "".join(letter if letter.isprintable() else "·" for letter in text) or "·"
    return text if len(text) <= width else text[: width - 1] + "…"


def print_tile(out: Console, tile: Any) -> None:
    """tile: a DataArray (query, key) with query_token and key_token. Prints what fits, and says what it leaves out."""
    query_dim, key_dim = tile.dims
    a_QK = tile.values
    rows_labels = [label(str(t), 10) for t in tile[f"{query_dim}_token"].values]
    fits = max(1, (out.width - 18) // CELL)
    shown = np.arange(a_QK.shape[1])
    if len(shown) > fits:
        shown = np.sort(np.argsort(-a_QK.max(0), kind="stable")[:fits])
    tokens, positions = tile[f"{key_dim}_token"].values, tile[key_dim].values
    head = Text(" " * 18, style="dim")
    head.append("".join(f"{positions[j]:>{CELL}}" for j in shown))
    out.print(head)
    out.print(Text(" " * 18 + "".join(f"{label(str(tokens[j]), CELL - 1):>{CELL}}" for j in shown), style="bold"))
    for i, row in enumerate(a_QK):
        line = Text(f"{tile[query_dim].values[i]:>6} ", style="dim")
        line.append(f"{rows_labels[i]:<11}", style="bold")
        for j in shown:
            line.append(_cell(float(row[j])), style=_shade(float(row[j])))
        out.print(line)
    if len(shown) < a_QK.shape[1]:
        out.print(
            f"[dim]{len(shown)} of {a_QK.shape[1]} keys, those with the largest weights; narrow --key, or use "
            "--format csv, for all[/]"
        )


def print_row(out: Console, row: Any, *, most: int = 8) -> None:
    """row: a DataArray (key,). A line for each of the `most` heaviest keys of 0.001 or more, then the rest as a sum."""
    (key_dim,) = row.dims
    a_K = row.values
    heaviest = np.argsort(-a_K, kind="stable")[:most]
    heaviest = np.sort(heaviest[(a_K[heaviest] >= 0.001) | (np.arange(len(heaviest)) < 3)])
    for j in heaviest:
        weight = float(a_K[j])
        bar = "█" * round(weight * BAR) or "▏"
        line = Text(f"  {row[key_dim].values[j]:>6} ", style="dim")
        line.append(f"{label(str(row[f'{key_dim}_token'].values[j]), 12):<13}", style="bold")
        line.append(f"{weight:6.3f} ")
        line.append(bar, style=_shade(weight))
        out.print(line)
    rest = float(a_K.sum() - a_K[heaviest].sum())
    out.print(f"  [dim]       {len(a_K) - len(heaviest)} other keys  {rest:6.3f}[/]")


def _cell(weight: float) -> str:
    return f"{'·':>{CELL}}" if weight == 0 else f"{weight:>{CELL}.2f}" if weight >= 0.005 else f"{'0':>{CELL}}"


def _shade(weight: float) -> str:
    return SHADES[sum(weight >= limit for limit in LIMITS)]
