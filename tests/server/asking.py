"""Questions asked of a session, and the answers by numpy from the dense map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import attlas
from attlas.server.session import Session

__all__ = ["asked", "dense_tile", "full_map", "visible"]


def asked(session: Session, op: str, **arguments: Any) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    found = session.answer(op, arguments)
    return found.data, list(found.buffers)


def full_map(atlas: attlas.Atlas, document: str, kind: str, layer: int, head: int | str) -> NDArray[np.float32]:
    """(Q, K) of one head, or of the mean over heads in float64."""
    a_HQK = atlas.attention(document, kind).sel(layer=layer).values
    heads = atlas.column(f"{kind}/head").tolist()
    chosen = a_HQK.astype(np.float64).mean(axis=0) if head == "mean" else a_HQK[heads.index(head)]
    return chosen.astype(np.float32)


def visible(atlas: attlas.Atlas, document: str, kind: str, layer: int, keys: int) -> NDArray[np.bool_]:
    """(Q, K): whether a query may see a key."""
    intervals = atlas.key_intervals(document, layer, kind)
    start_Q, stop_Q = intervals.key_start.values[:, None], intervals.key_stop.values[:, None]
    return np.asarray((np.arange(keys) >= start_Q) & (np.arange(keys) < stop_Q))


def dense_tile(
    a_QK: NDArray[np.float32], seen_QK: NDArray[np.bool_], level: int, row: int, column: int, pool: str, side: int
) -> NDArray[np.float32]:
    """A tile by loops over its blocks; sums in float64."""
    block = 1 << level
    rows = range(row * side * block, min(len(a_QK), (row + 1) * side * block), block)
    columns = range(column * side * block, min(a_QK.shape[1], (column + 1) * side * block), block)
    out = np.full((len(rows), len(columns)), np.nan, np.float32)
    for i, q in enumerate(rows):
        for j, k in enumerate(columns):
            part, seen = a_QK[q : q + block, k : k + block], seen_QK[q : q + block, k : k + block]
            if seen.any():
                out[i, j] = part.max() if pool == "max" else part.sum(dtype=np.float64) / len(part)
    return out
