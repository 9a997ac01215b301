"""A whole map of weights made small enough to look at: blocks of cells, each by its largest weight or its mass."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import choose_document
from attlas.analysis.mean_map import BLOCK_BYTES, mean_blocks
from attlas.errors import InputError
from attlas.parse import parse_choice, parse_count, parse_instance, refuse
from attlas.storage import Atlas
from attlas.storage.stores import Where
from attlas.storage.tile import chosen_places, existing_label

__all__ = ["overview", "shrink", "thumbnails"]

Floats = NDArray[np.float32]


def overview(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    layer: int | None,
    head: int | str = "mean",
    kind: str | None = None,
    queries: Any = None,
    keys: Any = None,
    cells: int = 512,
    pool: str = "max",
) -> xr.DataArray:
    """The map of a head, or of the mean over a layer's heads, in at most `cells` x `cells` blocks.

    >>> small = attlas.analysis.overview(atlas, layer=1, head=0, cells=50)
    >>> small.shape, small.attrs["block_queries"], small["query_token"].values[2].item()
    ((49, 49), 3, 'R')

    document: may be left out where the atlas holds one. layer, head: the model's indices, negative from the end;
    layer=None for all layers, head="mean" for the mean over heads. kind: of the atlas's kinds, the first by default.
    queries, keys: positions, as `parse_selection` reads them, all by default. pool: "max", the largest weight of a
    block; "mass", its sum over keys as the mean over its queries, so that rows still sum to 1. Every weight is computed
    once, some rows at a time.

    Weights (query, key), of all layers (layer, query, key), float32, NaN where a block holds no key that its queries
    may see; `query` and `key` are the first places of the blocks, query_token and key_token theirs; attrs tell `pool`,
    `block_queries`, `block_keys` and the document's `queries` and `keys`. Raises InputError, DocumentMissingError and
    TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    cells, pool = parse_count(cells, "cells"), parse_choice(pool, "pool", ("max", "mass"))
    attention = atlas.attention(document, kind)
    if isinstance(head, str) and head != "mean":
        raise refuse(head, "head", 'give a number, or "mean"')
    if not isinstance(head, str):
        head = existing_label(attention, "head", head)
        attention = attention.sel(head=[head])
    layers = attention["layer"].values.tolist() if layer is None else [existing_label(attention, "layer", layer)]
    selected = {
        dim: chosen_places(attention, dim, given)
        for dim, given in (("query", queries), ("key", keys))
        if given is not None
    }
    attention = attention.isel(selected)
    maps = []
    for one in layers:
        seen = atlas.key_intervals(document, one, kind).isel(query=selected.get("query", slice(None)))
        maps.append(_shrink(attention.sel(layer=one), seen, cells, pool))
    small = maps[0].assign_attrs(layer=layers[0]) if layer is not None else xr.concat(maps, "layer")
    return small.assign_attrs(model=str(atlas.model.get("name")), kind=kind, head=str(head))


def shrink(weights: xr.DataArray, *, cells: int = 512, pool: str = "max") -> xr.DataArray:
    """Any weights (query, key) in at most `cells` x `cells` blocks: of a rollout, a flow, a difference.

    >>> attlas.analysis.shrink(page.attention.sel(layer=1, head=0), cells=73).shape
    (73, 73)

    weights: (query, key), lazy or not; cells that are NaN are masked. cells, pool: as of `overview`, and "extreme", the
    value of a block that is farthest from 0. Raises InputError where `weights` has other dimensions.
    """
    parse_instance(weights, "weights", xr.DataArray, "give weights (query, key)")
    if set(weights.dims) != {"query", "key"}:
        raise refuse(weights.dims, "weights", "give weights of the dimensions query and key")
    cells, pool = parse_count(cells, "cells"), parse_choice(pool, "pool", ("max", "mass", "extreme"))
    return _shrink(weights.transpose("query", "key").expand_dims("head"), None, cells, pool)


def thumbnails(
    atlas: Atlas | Where, document: str | None = None, *, kind: str | None = None, cells: int = 48
) -> xr.DataArray:
    """A small map of every head: of some rows, spread evenly, the largest weight in each block of keys.

    >>> every = attlas.analysis.thumbnails(atlas)
    >>> every.sizes["layer"], every.sizes["head"], every.sizes["query"], every.sizes["key"]
    (4, 4, 37, 37)

    document, kind: as of `overview`. cells: the most rows and the most blocks of keys. Weights (layer, head, query,
    key), float32, NaN where a row may see no key of a block; `query` is the row that was read, which is the last of its
    block; attrs tell `block_keys` and `rows_used`. Raises InputError, DocumentMissingError, TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    attention = atlas.attention(document, kind)
    queries, keys, cells = attention.sizes["query"], attention.sizes["key"], parse_count(cells, "cells")
    step = -(-queries // cells)
    chosen = np.minimum(np.arange(0, queries, step) + step - 1, queries - 1)
    rows, block = attention.isel(query=chosen), -(-keys // cells)
    together = max(1, BLOCK_BYTES // (4 * len(chosen) * keys))  # heads of a layer
    small_LHQK = np.empty((rows.sizes["layer"], rows.sizes["head"], len(chosen), -(-keys // block)), np.float32)
    for place, layer in enumerate(rows["layer"].values.tolist()):
        seen = atlas.key_intervals(document, layer, kind).isel(query=chosen)
        for begin in range(0, rows.sizes["head"], together):
            some = slice(begin, begin + together)
            a_HQK = rows.isel(layer=place, head=some).values
            small_LHQK[place, some] = np.maximum.reduceat(a_HQK, np.arange(0, keys, block), axis=2)
        small_LHQK[place][:, ~_any_seen(seen, rows["key"].values, block)] = np.nan
    return xr.DataArray(
        small_LHQK, dims=("layer", "head", "query", "key"),
        coords={"layer": rows["layer"], "head": rows["head"], "query": rows["query"], "key": np.arange(0, keys, block)},
        attrs={
            "long_name": "largest attention weight of a block of keys", "units": "1", "document_id": document,
            "kind": kind, "model": str(atlas.model.get("name")), "block_keys": block, "rows_used": len(chosen),
            "queries": queries, "keys": keys,
        },
    )  # fmt: skip


def _shrink(attention: xr.DataArray, seen: xr.Dataset | None, cells: int, pool: str) -> xr.DataArray:
    """attention: (head, query, key), the mean over its heads is taken. seen: key intervals; None: masked are NaN."""
    queries, keys = attention.sizes["query"], attention.sizes["key"]
    block_Q, block_K = max(1, -(-queries // cells)), max(1, -(-keys // cells))
    small_QK = np.empty((-(-queries // block_Q), -(-keys // block_K)), np.float32)
    if block_Q * keys * 4 > 16 * BLOCK_BYTES:
        raise InputError(f"{block_Q:,} rows of {keys:,} keys make one block: ask for more cells")
    for begin, a_QK in mean_blocks(attention, np.float32, multiple=block_Q):
        masked = np.isnan(a_QK)
        if masked.any():
            a_QK = np.nan_to_num(a_QK).astype(np.float32)
        part: Floats
        if pool == "max":
            part = _pooled(np.maximum, a_QK, block_Q, block_K)
        elif pool == "extreme":
            high, low = (_pooled(reduce, a_QK, block_Q, block_K) for reduce in (np.maximum, np.minimum))
            part = np.where(high >= -low, high, low)
        else:
            rows = np.minimum(block_Q, queries - np.arange(begin, begin + len(a_QK), block_Q))
            part = (_pooled(np.add, a_QK, block_Q, block_K) / rows[:, None]).astype(np.float32)
        if seen is None:
            any_seen = _pooled(np.logical_or, ~masked, block_Q, block_K)
        else:
            any_seen = _any_seen(seen.isel(query=slice(begin, begin + len(a_QK))), attention["key"].values, block_K)
            any_seen = np.logical_or.reduceat(any_seen, np.arange(0, len(any_seen), block_Q), axis=0)
        part[~any_seen] = np.nan
        small_QK[begin // block_Q : begin // block_Q + len(part)] = part
    first = attention.isel(query=slice(None, None, block_Q), key=slice(None, None, block_K))
    names = [f"{dim}{column}" for dim in ("query", "key") for column in ("", "_token")]
    return xr.DataArray(
        small_QK, dims=("query", "key"), coords={name: first[name] for name in names if name in first.coords},
        attrs=attention.attrs | {
            "block_queries": block_Q, "block_keys": block_K, "pool": pool, "queries": queries, "keys": keys,
        },
    )  # fmt: skip


def _pooled(reduce: np.ufunc, a_QK: NDArray[Any], block_Q: int, block_K: int) -> NDArray[Any]:
    some: NDArray[Any] = reduce.reduceat(a_QK, np.arange(0, a_QK.shape[1], block_K), axis=1)
    return reduce.reduceat(some, np.arange(0, len(some), block_Q), axis=0)


def _any_seen(intervals: xr.Dataset, key_K: NDArray[Any], block: int) -> NDArray[np.bool_]:
    """Whether a row may see any key of a block (rows, blocks). key_K: the places of the keys, in order."""
    start_Q, stop_Q = (np.searchsorted(key_K, intervals[name].values) for name in ("key_start", "key_stop"))
    first_B = np.arange(0, len(key_K), block)
    last_B = np.minimum(first_B + block, len(key_K))
    seen: NDArray[np.bool_] = np.maximum(start_Q[:, None], first_B) < np.minimum(stop_Q[:, None], last_B)
    return seen
