"""The statistics of attention maps by numpy alone: what attlas's own answers from factors are held against.

Suffixes: H heads, Q query rows, K keys.
"""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import zarr

__all__ = ["BINS", "REACH", "dense_block", "dense_maps", "distance_edges"]

THRESHOLDS = np.array([0.0001, 0.001, 0.01], dtype=np.float32)
BINS, REACH, BLOCK = 1024, 16, 512


def distance_edges(rows: int) -> Any:
    """Where the bins of distance begin: 0, 1, 2, 4, ... to beyond `rows`."""
    return np.array([0, *(2**p for p in range(int(np.ceil(np.log2(rows))) + 1))])


def dense_block(a_HQK: Any, first_row: int, ids: Any, marks: Any, edges: Any) -> dict[str, Any]:
    """Sums of one block of rows of a layer's heads, by numpy alone, on the keys that its rows can see.

    a_HQK: weights of the rows from `first_row` on, causal. ids, marks: (K,) token ids, and which are separators.
    edges: of `distance_edges`.
    """
    heads, rows, _ = a_HQK.shape
    keys = first_row + rows
    a = a_HQK[:, :, :keys].astype(np.float32)
    i, j = np.arange(first_row, keys), np.arange(keys)
    visible = j <= i[:, None]
    with np.errstate(divide="ignore"):
        t = np.maximum(np.log2(a), -126)
    entropy = -(a * t).sum(2) * np.log(2)
    bins = np.clip(t * 32 + BINS, 0, BINS - 1).astype(np.int16)
    counts = np.stack([np.bincount(bins[h][visible], minlength=BINS) for h in range(heads)])
    masses = np.stack([np.bincount(bins[h][visible], a[h][visible], minlength=BINS) for h in range(heads)])
    linear = a.reshape(-1, keys) @ np.stack([np.ones(keys), j, j.astype(np.float64) ** 2, marks[:keys]], 1).astype(
        np.float32
    )
    mass, first, second, marked = linear.reshape(heads, rows, 4).transpose(2, 0, 1)
    sums = np.concatenate([np.zeros((heads, rows, 1), np.float32), np.cumsum(a, axis=2)], axis=2)
    near, far = np.clip(i[:, None] + 1 - edges[:-1], 0, None), np.clip(i[:, None] + 1 - edges[1:], 0, None)
    at = lambda place: np.take_along_axis(sums, np.broadcast_to(place, (heads, *place.shape)), 2)  # noqa: E731
    same = (ids[i][:, None] == ids[j]) & (j < i[:, None])
    follows = np.concatenate([np.zeros((rows, 1), bool), same[:, :-1]], 1)
    offsets = np.stack(
        [np.where(i >= d, a[:, np.arange(rows), np.maximum(i - d, 0)], 0).sum(1) for d in range(REACH + 1)], 1
    )
    argmax = i - a.argmax(2)
    flat = a.reshape(heads, -1)
    return {
        "entropy": entropy.sum(1), "entropy2": (entropy**2).sum(1), "support": np.exp(entropy).sum(1),
        "normalised": (entropy[:, i > 0] / np.log(i[i > 0] + 1)).sum(1), "mass": mass.sum(1),
        "squared": np.einsum("hqk,hqk->h", a, a), "maximum": a.max(2).sum(1), "first": a[:, :, 0].sum(1),
        "marked": marked.sum(1), "distance": (i * mass - first).sum(1), "variance": (second - first**2).sum(1),
        "by_distance": (at(near) - at(far)).sum(1), "duplicate": np.einsum("hqk,qk->h", a, same.astype(np.float32)),
        "induction": np.einsum("hqk,qk->h", a, follows.astype(np.float32)), "offsets": offsets,
        "argmax": np.stack([(argmax == d).sum(1) for d in range(REACH + 1)], 1), "counts": counts, "masses": masses,
        "below": np.stack([((a < limit) & visible).sum((1, 2)) for limit in THRESHOLDS], 1),
        "gram": (flat @ flat.T).astype(np.float64),
    }  # fmt: skip


def dense_maps(maps: zarr.Array[Any], ids: Any, marks: Any, edges: Any) -> dict[str, Any]:
    """The sums of every layer and head of stored maps (layer, head, query, key), each block read through dask.array."""
    _, heads, _, keys = maps.shape
    array = da.from_array(maps, chunks=(1, heads, BLOCK, keys), name=False)

    def task(block: Any, block_info: Any = None) -> Any:
        first_row = block_info[0]["array-location"][2][0]
        out = np.empty((1, 1, 1, 1), dtype=object)
        out[0, 0, 0, 0] = dense_block(block[0], first_row, ids, marks, edges)
        return out

    found = array.map_blocks(task, dtype=object, chunks=(1, 1, 1, 1)).compute(scheduler="threads")
    names = found[0, 0, 0, 0].keys()
    return {name: np.stack([sum(block[name] for block in layer[0, :, 0]) for layer in found]) for name in names}
