"""A tile of weights as a table of text: queries down, keys across, shaded by weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from attlas.readable import token_label

__all__ = ["print_row", "print_tile"]

CELL = 6
SHADES = ("grey42", "grey62", "grey82", "bold yellow", "bold red")
LIMITS = (0.01, 0.05, 0.2, 0.5)
BAR = 32


def print_tile(out: Console, tile: Any) -> None:
    """tile: one of `choose_tile`. Prints what fits, and says what it leaves out."""
    told = tile.attrs
    where = f"{told['document_id']}, {told['kind']} layer {told['layer']}, head {told['head']}"
    out.print(f"{where}: weight of each key (across) for each query (down)", style="dim")
    a_QK = tile.values
    rows_labels = [token_label(str(token), 10) for token in tile["query_token"].values]
    fits = max(1, (out.width - 18) // CELL)
    shown = np.arange(a_QK.shape[1])
    if len(shown) > fits:
        shown = np.sort(np.argsort(-a_QK.max(0), kind="stable")[:fits])
    tokens, positions = tile["key_token"].values, tile["key"].values
    head = Text(" " * 18, style="dim")
    head.append("".join(f"{positions[j]:>{CELL}}" for j in shown))
    out.print(head)
    out.print(Text(" " * 18 + "".join(f"{token_label(str(tokens[j]), CELL - 1):>{CELL}}" for j in shown), style="bold"))
    for i, row in enumerate(a_QK):
        line = Text(f"{tile['query'].values[i]:>6} ", style="dim")
        line.append(f"{rows_labels[i]:<11}", style="bold")
        for j in shown:
            line.append(_cell(float(row[j])), style=_shade(float(row[j])))
        out.print(line)
    if len(shown) < a_QK.shape[1]:
        told_of = f"{len(shown)} of {a_QK.shape[1]} keys, those with the largest weights"
        out.print(f"{told_of}; narrow --key, or use --format csv, for all", style="dim")


def print_row(out: Console, row: Any, *, most: int = 8, others: str = "keys") -> None:
    """row: weights (key,) with key_token. The `most` heaviest keys of 0.001 or more, then the sum of `others`."""
    a_K = row.values
    heaviest = np.argsort(-a_K, kind="stable")[:most]
    heaviest = np.sort(heaviest[(a_K[heaviest] >= 0.001) | (np.arange(len(heaviest)) < 3)])
    for j in heaviest:
        weight = float(a_K[j])
        bar = "█" * round(weight * BAR) or "▏"
        line = Text(f"  {row['key'].values[j]:>6} ", style="dim")
        line.append(f"{token_label(str(row['key_token'].values[j]), 12):<13}", style="bold")
        line.append(f"{weight:6.3f} ")
        line.append(bar, style=_shade(weight))
        out.print(line)
    rest = float(a_K.sum() - a_K[heaviest].sum())
    out.print(f"         {len(a_K) - len(heaviest)} other {others}  {rest:6.3f}", style="dim")


def _cell(weight: float) -> str:
    return f"{'·':>{CELL}}" if weight == 0 else f"{weight:>{CELL}.2f}" if weight >= 0.005 else f"{'0':>{CELL}}"


def _shade(weight: float) -> str:
    return SHADES[sum(weight >= limit for limit in LIMITS)]
