"""The weights: a tile, a row, a column, a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError
from attlas.parse import parse_choice, parse_count
from attlas.server.handles import Handle
from attlas.server.questions.question import Answer, Asked, op
from attlas.server.tiles import FORMATS, POOLS, SIDE, Box, HeadMap, choose_box, encode, pooled
from attlas.storage.blocks import LOW, meant

__all__ = ["MOST_CELLS"]

Floats = NDArray[np.float32]

MOST_CELLS = 600_000_000
"""Weights that are computed for one answer, some seconds' worth: a causal map of 32,768 tokens whole."""
MOST_TOP = 1000


@op
def tile(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    layer: Any = None,
    head: Any = None,
    level: Any = 0,
    row: Any = 0,
    column: Any = 0,
    pool: Any = "max",
    format: Any = "u8",
) -> Answer:
    """256 x 256 blocks of the map of a head, or of the mean over heads."""
    handle = asked.session.handle(atlas, document, kind)
    head_map = handle.head_map(layer, head)
    box = choose_box(handle.queries, handle.keys, level, row, column)
    pool, form = parse_choice(pool, "pool", POOLS), parse_choice(format, "format", FORMATS)
    codes = _stored(handle, head_map, box, pool)
    if codes is not None and (form == "u8" or head_map.cost(box) > MOST_CELLS):
        made, source = (codes if form == "u8" else encode(meant(codes), form)), "overview"
    else:
        made, source = encode(_computed(asked, handle, head_map, box, pool), form), "weights"
    return Answer(
        {
            "shape": list(box.shape),
            "dtype": made.dtype.name,
            "block": box.block,
            "queries": [box.queries.start, box.queries.stop],
            "keys": [box.keys.start, box.keys.stop],
            "scale": {"kind": "log", "low": LOW, "high": 1} if form == "u8" else None,
            "source": source,
        },
        (made,),
    )


def _stored(handle: Handle, head_map: HeadMap, box: Box, pool: str) -> NDArray[np.uint8] | None:
    """A tile as the overview has it; None where it has none."""
    overview = handle.overview
    if overview is None or box.level not in overview.levels:
        return None
    head = head_map.heads[0] if len(head_map.heads) == 1 else None
    rows, columns = (slice(place * SIDE, (place + 1) * SIDE) for place in (box.row, box.column))
    return overview.codes(pool, box.level, head_map.layer, head, rows, columns)


def _computed(asked: Asked, handle: Handle, head_map: HeadMap, box: Box, pool: str) -> Floats:
    """One of the tiles that are kept, or computed now."""
    pool = "max" if box.level == 0 else pool  # blocks of one cell
    key = asked.session.key(handle), head_map.layer, head_map.heads, box.level, box.row, box.column, pool

    def make() -> Floats:
        cost = head_map.cost(box)
        if cost > MOST_CELLS:
            raise InputError(
                f"this tile of level {box.level} is made of {cost:,} weights, and {MOST_CELLS:,} are computed at a "
                "time: store its coarse levels with attlas overview, or ask for a lower level"
            )
        return pooled(head_map, box, pool)

    heavy = box.level > 0 or len(head_map.heads) > 1
    return asked.session.cache.get(key, make, heavy=heavy, wanted=asked.wanted)


@op
def row(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    layer: Any = None,
    head: Any = None,
    query: Any = None,
    top: Any = 20,
) -> Answer:
    """What a query attends to: its weights on all keys, and the largest of them."""
    handle = asked.session.handle(atlas, document, kind)
    head_map, top = handle.head_map(layer, head), parse_count(top, "top", least=0, most=MOST_TOP)
    place = _place(query, "query", handle.queries)
    a_K = head_map.cells(slice(place, place + 1), slice(0, handle.keys))[0]
    first, end = int(head_map.start_Q[place]), int(head_map.stop_Q[place])
    seen_K = np.zeros(handle.keys, np.bool_)
    seen_K[first:end] = True
    data = {"query": place, "token": handle.token("query", place), "seen": [first, end]}
    return Answer(data | {"top": _largest(handle, a_K, seen_K, "key", top)}, (np.where(seen_K, a_K, np.nan),))


@op
def column(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    layer: Any = None,
    head: Any = None,
    key: Any = None,
    top: Any = 20,
) -> Answer:
    """What attends to a key: the weights of all queries on it, and the largest of them."""
    handle = asked.session.handle(atlas, document, kind)
    head_map, top = handle.head_map(layer, head), parse_count(top, "top", least=0, most=MOST_TOP)
    place = _place(key, "key", handle.keys)
    seen_Q = (head_map.start_Q <= place) & (place < head_map.stop_Q)
    a_Q = np.full(handle.queries, np.nan, np.float32)
    some = np.flatnonzero(seen_Q)
    if some.size:
        first, end = int(some[0]), int(some[-1]) + 1
        cells_Q = head_map.cells(slice(first, end), slice(place, place + 1))[:, 0]
        a_Q[first:end] = np.where(seen_Q[first:end], cells_Q, np.nan)
    data = {"key": place, "token": handle.token("key", place)}
    return Answer(data | {"top": _largest(handle, a_Q, seen_Q, "query", top)}, (a_Q,))


@op
def cell(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    layer: Any = None,
    head: Any = None,
    query: Any = None,
    key: Any = None,
) -> Answer:
    """One weight."""
    handle = asked.session.handle(atlas, document, kind)
    head_map = handle.head_map(layer, head)
    i, j = _place(query, "query", handle.queries), _place(key, "key", handle.keys)
    seen = bool(head_map.start_Q[i] <= j < head_map.stop_Q[i])
    weight = float(head_map.cells(slice(i, i + 1), slice(j, j + 1))[0, 0]) if seen else 0.0
    tokens = {"query_token": handle.token("query", i), "key_token": handle.token("key", j)}
    return Answer({"query": i, "key": j, "weight": weight, "seen": seen} | tokens)


def _place(given: Any, name: str, size: int) -> int:
    place = parse_count(given, name, least=0)
    if place >= size:
        raise InputError(f"{name} is {place}: the document has {size:,}, counted from 0")
    return place


def _largest(handle: Handle, a: Floats, seen: NDArray[np.bool_], axis: str, top: int) -> list[dict[str, Any]]:
    """The largest of the weights that are seen, the first of equals first."""
    some = np.flatnonzero(seen)
    if len(some) > top:
        least = np.partition(a[some], len(some) - top)[len(some) - top] if top else np.inf
        some = some[a[some] >= least]
    best = some[np.argsort(-a[some], kind="stable")][:top]
    return [{axis: int(place), "token": handle.token(axis, place), "weight": float(a[place])} for place in best]
