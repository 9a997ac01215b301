"""Small maps of all heads of a layer: of some rows, spread evenly, the largest weight in each block of keys; or of all
rows, from an overview.

Suffixes: H heads, Q queries, K keys, R and C the rows and columns of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attlas.server.handles import Handle
from attlas.server.tiles import BLOCK_BYTES
from attlas.storage.overview import Overview

__all__ = ["pooled_thumbnails", "sampled_rows", "thumbnails_of"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def sampled_rows(queries: int, cells: int) -> Indices:
    """The rows that are read, at most `cells`: of as many runs of rows, the last each.

    >>> sampled_rows(10, 4).tolist()
    [2, 5, 8, 9]
    """
    step = -(-queries // cells)
    return np.minimum(np.arange(0, queries, step) + step - 1, queries - 1)


def thumbnails_of(handle: Handle, place: int, heads: Sequence[int], cells: int) -> Floats:
    """Thumbnails (H, R, C) of heads of the layer at a place, float32, NaN where a row may see no key of a block."""
    chosen, block = sampled_rows(handle.queries, cells), -(-handle.keys // cells)
    start_R, stop_R = (edge_Q[chosen] for edge_Q in handle.intervals(place))
    keys, first_C = np.arange(handle.keys), np.arange(0, handle.keys, block)
    together = max(1, 2 * BLOCK_BYTES // (4 * len(chosen) * handle.keys))  # heads; keys are read for each such part
    small_HRC = np.empty((len(heads), len(chosen), len(first_C)), np.float32)
    for begin in range(0, len(heads), together):
        some = np.array(heads[begin : begin + together])
        a_HQK = handle.attention.compute([np.array([place]), some, chosen, keys])[0]
        small_HRC[begin : begin + together] = np.maximum.reduceat(a_HQK, first_C, axis=2)
    last_C = np.minimum(first_C + block, handle.keys)
    seen_RC = np.maximum(start_R[:, None], first_C) < np.minimum(stop_R[:, None], last_C)
    small_HRC[:, ~seen_RC] = np.nan
    return small_HRC


def pooled_thumbnails(
    overview: Overview, places: Sequence[int], heads: Sequence[int], cells: int
) -> tuple[NDArray[np.uint8], list[int]] | None:
    """Thumbnails (layer, H, R, C) of the layers at some places, as bytes, and the queries and keys of a block, from the
    coarsest level of an overview; None where that is damaged. The largest byte is that of the largest weight."""
    level, made, blocks = overview.levels[-1], [], [1, 1]
    for place in places:
        small = overview.of_layer("max", level, place)
        if small is None:
            return None
        small = small[list(heads)]
        for axis in (1, 2):
            step = -(-small.shape[axis] // cells)
            blocks[axis - 1] = step << level
            small = np.maximum.reduceat(small, np.arange(0, small.shape[axis], step), axis=axis)
        made.append(small)
    return np.stack(made), blocks
