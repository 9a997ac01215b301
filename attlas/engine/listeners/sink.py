"""What a capture hands on: rows of one layer, and the sink that takes them.

Suffixes: H query heads, N query tokens, Q queries and K keys of a tile, B histogram bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

__all__ = ["LayerRows", "MapTile", "Sink"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerRows:
    """The rows of one layer that one forward pass produced, on the CPU.

    kind, layer: which attention; `layer` is the model's own index.
    query_start: place of the first query row on the atlas's query axis.
    key_start: place of the first key row on the atlas's key token axis (equal to query_start but for cross-attention).
    factors: name -> rows, (heads, rows, ...) or (rows,), as a `Recording` takes them, in the dtype they have there;
        factors of query rows are left out where no row of the pass is kept.
    statistics: name -> (H, N) float32.
    histogram_HB: int64 counts of weights; head_gram_HH: float64; both summed over these rows.
    """

    kind: str
    layer: int
    query_start: int
    key_start: int
    factors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    statistics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    histogram_HB: torch.Tensor | None = None
    head_gram_HH: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapTile:
    """A tile of materialised weights of one document: a_HQK float32, at document-relative positions."""

    kind: str
    layer: int
    document: int
    query_start: int
    key_start: int
    a_HQK: torch.Tensor


class Sink(Protocol):
    """Takes what a capture produces. Owned by the engine, implemented by storage, and by tests in memory.

    Rows of one layer arrive in token order. A sink may buffer; nothing counts until its owner commits the pack.
    """

    def write(self, rows: LayerRows) -> None: ...

    def write_map(self, tile: MapTile) -> None: ...
