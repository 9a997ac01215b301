"""What a capture hands on: one layer's block of rows, and the sink that takes it.

Suffixes: H query heads, G kv heads, N query tokens, M key tokens, D features, B histogram bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["LayerBlock", "MapTile", "Sink"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerBlock:
    """The rows of one layer that one forward pass produced, on the CPU.

    kind, layer: which attention; `layer` is the model's own index.
    query_start: place of the first row on the atlas's query token axis.
    key_start: place of k's first token on the atlas's key token axis (equal to query_start but for cross-attention).
    q_HND, k_GMD: factors in the model's dtype, after rotary and normalisation; None where the tier keeps none.
    lse_HN: log-sum-exp of each row's scores, float32, in nats, sink logit included.
    interval_start_N, interval_stop_N: each row's key interval, int32, counted from the document's first key.
    statistics: name -> (H, N) float32.
    histogram_HB: int64 counts of weights; head_gram_HH: float64; both summed over the rows of the block.
    """

    kind: str
    layer: int
    query_start: int
    key_start: int
    q_HND: torch.Tensor | None = None
    k_GMD: torch.Tensor | None = None
    lse_HN: torch.Tensor | None = None
    interval_start_N: NDArray[np.int32] | None = None
    interval_stop_N: NDArray[np.int32] | None = None
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

    Blocks of one layer arrive in token order. A sink may buffer; nothing counts until its owner commits the pack.
    """

    def write(self, block: LayerBlock) -> None: ...

    def write_map(self, tile: MapTile) -> None: ...
