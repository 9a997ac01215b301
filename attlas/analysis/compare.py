"""Two attentions side by side: of two documents, layers, heads, models or checkpoints, aligned by their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.overview import shrink
from attlas.engine.passage.alignment import Places, common_places
from attlas.errors import InputError
from attlas.parse import parse_count, parse_instance, refuse

__all__ = ["compare"]

Floats = NDArray[np.float64]

BLOCK_BYTES, BLOCK_ROWS = 32 * 2**20, 512


def compare(one: xr.DataArray, other: xr.DataArray, *, top: int = 20, cells: int = 512) -> xr.Dataset:
    """How far apart two attentions are, head by head and query by query, and where they differ most.

    >>> every = atlas.attention("demo")
    >>> found = attlas.analysis.compare(every.sel(layer=1, head=0), every.sel(layer=1, head=1))
    >>> round(found.distance.item(), 3), found.change.shape, found.attrs["aligned"]
    (0.538, (20,), 146)

    one, other: weights (query, key) or (layer, head, query, key), lazy or not, such as `atlas.attention(...)` of two
    atlases of one text, or selections of it: of layers and heads, equally many of both, which are compared in turn and
    named as in `one`. Queries and keys are aligned by token id, or by token where the ids are of other vocabularies:
    those in common, in order, are compared. What a row has on other keys is compared as a sum. top: changes told.

    distance(layer, head) and row_distance(layer, head, query): the Jensen-Shannon distance, the root of the divergence
    in bits, from 0 to 1, and its mean over aligned queries. variation(layer, head): mean over queries of half the sum
    of |other - one|, the share of weight that moved. change(rank): other - one where it is largest, with its `query`
    and `key` in both, and layer and head. difference(query, key): of one head, other - one at the aligned places, in at
    most `cells` x `cells` blocks by the value farthest from 0. Memory: some rows. Raises InputError where nothing can
    be aligned, or the layers and heads are not equally many.
    """
    one, other = (_parse(value, name) for value, name in ((one, "one"), (other, "other")))
    top, cells = parse_count(top, "top"), parse_count(cells, "cells")
    if one.shape[:2] != other.shape[:2]:
        raise InputError(
            f"one has {one.shape[0]} layers x {one.shape[1]} heads, and the other {other.shape[0]} x {other.shape[1]}: "
            "choose equally many with .sel"
        )
    rows, keys = (_aligned(one, other, dim) for dim in ("query", "key"))
    if not len(rows[0]) or not len(keys[0]):
        raise InputError("the two texts have no token in common, so nothing can be compared")
    layers, heads = one.shape[:2]
    distance = np.empty((layers, heads, len(rows[0])))
    moved = np.empty(distance.shape)
    changes = _Largest(top)
    for i, j in np.ndindex(layers, heads):
        for begin, a_QK, b_QK in _blocks(one[i, j], other[i, j], rows, keys):
            some = slice(begin, begin + len(a_QK))
            distance[i, j, some], moved[i, j, some] = _distances(a_QK, b_QK)
            change_QK = b_QK - a_QK
            changes.add(change_QK, (i, j, begin))
    place = changes.place
    found = xr.Dataset(
        {
            "distance": (("layer", "head"), distance.mean(axis=2), _facts("mean Jensen-Shannon distance of rows")),
            "variation": (("layer", "head"), moved.mean(axis=2), _facts("mean share of a row's weight that moved")),
            "row_distance": (("layer", "head", "query"), distance, _facts("Jensen-Shannon distance of the row")),
            "change": ("rank", changes.value, _facts("change of the weight, from one to the other")),
            "change_layer": ("rank", one["layer"].values[place[0]]),
            "change_head": ("rank", one["head"].values[place[1]]),
        },
        {"layer": one["layer"].values, "head": one["head"].values, "query": one["query"].values[rows[0]]},
        {"question": "compare", "aligned": len(rows[0]), "queries": one.sizes["query"], "top": top}
        | {f"{name}_{side}": str(value.attrs.get(name, "")) for side, value in (("one", one), ("other", other))
           for name in ("model", "document_id", "kind")},
    )  # fmt: skip
    for dim, (mine, theirs), at in (("query", rows, place[2]), ("key", keys, place[3])):
        found[f"change_{dim}"] = "rank", one[dim].values[mine[at]]
        found[f"change_{dim}_other"] = "rank", other[dim].values[theirs[at]]
        if f"{dim}_token" in one.coords:
            found[f"change_{dim}_token"] = "rank", one[f"{dim}_token"].values[mine[at]]
            if dim == "query":
                found = found.assign_coords(query_token=("query", one["query_token"].values[rows[0]]))
    if layers * heads == 1:
        small = _difference(one[0, 0], other[0, 0], rows, keys, cells)
        small = small.rename({name: f"map_{name}" for name in ("query", "key", *small.coords)})
        found["difference"] = small.assign_attrs(title=f"{_named(other)} less {_named(one).lower()}")
    return found


def _named(value: xr.DataArray) -> str:
    return f"Layer {value['layer'].values[0]}, head {value['head'].values[0]}"


class _Largest:
    """The largest changes so far, by magnitude. place: layer, head, aligned row and aligned key of each."""

    def __init__(self, top: int) -> None:
        self.top, self.value = top, np.empty(0)
        self.place: tuple[Places, ...] = tuple(np.empty(0, np.int64) for _ in range(4))

    def add(self, change_QK: Floats, where: tuple[int, int, int]) -> None:
        size = np.abs(change_QK).ravel()
        some = np.argpartition(-size, self.top)[: self.top] if size.size > self.top else np.arange(size.size)
        row, key = np.unravel_index(some, change_QK.shape)
        layer, head, begin = where
        own = (np.full(len(some), layer), np.full(len(some), head), row + begin, key)
        value = np.concatenate([self.value, change_QK.ravel()[some]])
        place = [np.concatenate(pair) for pair in zip(self.place, own, strict=True)]
        order = np.lexsort((*place[::-1], -np.abs(value)))[: self.top]
        self.value, self.place = value[order], tuple(part[order] for part in place)


def _facts(definition: str) -> dict[str, str]:
    return {"long_name": definition, "units": "1"}


def _parse(value: Any, name: str) -> xr.DataArray:
    parse_instance(value, name, xr.DataArray, "give weights, such as atlas.attention(document)")
    missing = {"query", "key"} - set(value.dims)
    extra = set(value.dims) - {"layer", "head", "query", "key"}
    if missing or extra or 0 in value.shape:
        raise refuse(value.dims, f"{name}'s dimensions", "give (query, key) or (layer, head, query, key)")
    for dim in ("head", "layer"):
        if dim not in value.dims:
            value = value.expand_dims(dim) if dim in value.coords else value.expand_dims({dim: [0]})
    return value.transpose("layer", "head", "query", "key")


def _aligned(one: xr.DataArray, other: xr.DataArray, dim: str) -> tuple[Places, Places]:
    """Places on an axis of both, of tokens that stand in both, in order."""
    for name in (f"{dim}_token_id", f"{dim}_token"):
        if name in one.coords and name in other.coords:
            mine, theirs = (value[name].values.tolist() for value in (one, other))
            if mine == theirs:
                return (np.arange(len(mine)),) * 2
            same_model = one.attrs.get("model") == other.attrs.get("model")
            if name.endswith("_id") and not same_model:
                continue  # other vocabularies: an id may be any token
            return common_places(mine, theirs)
    if one.sizes[dim] != other.sizes[dim]:
        raise InputError(f"one has {one.sizes[dim]:,} {dim} places and the other {other.sizes[dim]:,}, without tokens")
    return (np.arange(one.sizes[dim]),) * 2


def _blocks(
    one: xr.DataArray, other: xr.DataArray, rows: tuple[Places, Places], keys: tuple[Places, Places]
) -> Iterator[tuple[int, Floats, Floats]]:
    """First aligned row, and some rows of both, float64: aligned keys."""
    step = max(1, BLOCK_BYTES // (8 * max(one.sizes["key"], other.sizes["key"])))
    for begin in range(0, len(rows[0]), step):
        some = slice(begin, begin + step)
        parts = (
            value.isel(query=places[some]).values[:, across].astype(np.float64)
            for value, places, across in ((one, rows[0], keys[0]), (other, rows[1], keys[1]))
        )
        yield begin, next(parts), next(parts)


def _distances(a_QK: Floats, b_QK: Floats) -> tuple[Floats, Floats]:
    """Jensen-Shannon distance and total variation of rows; what lies on keys that are not aligned is one more key."""
    a, b = (np.concatenate([x, np.maximum(0, 1 - x.sum(axis=1, keepdims=True))], axis=1) for x in (a_QK, b_QK))
    middle = (a + b) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(a > 0, a * np.log2(a / middle), 0) + np.where(b > 0, b * np.log2(b / middle), 0)
    return np.sqrt(np.clip(terms.sum(axis=1) / 2, 0, 1)), np.abs(a - b).sum(axis=1) / 2


def _difference(
    one: xr.DataArray, other: xr.DataArray, rows: tuple[Places, Places], keys: tuple[Places, Places], cells: int
) -> xr.DataArray:
    """The other less one at the aligned places, some rows at a time, in blocks."""
    mine, theirs = (
        value.drop_vars(value.coords).chunk(query=BLOCK_ROWS).isel(query=places, key=across)
        for value, places, across in ((one, rows[0], keys[0]), (other, rows[1], keys[1]))
    )
    named = {
        name: (dim, one[name].values[places])
        for dim, places in (("query", rows[0]), ("key", keys[0]))
        for name in (dim, f"{dim}_token") if name in one.coords
    }  # fmt: skip
    attributes = {"long_name": "change of attention weight", "units": "1", "signed": 1}
    return shrink((theirs - mine).assign_coords(named).assign_attrs(attributes), cells=cells, pool="extreme")
