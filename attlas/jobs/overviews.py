"""Overviews of documents made and kept in the atlas: every level and pool of all heads in one pass over the weights.

Suffixes: H heads and one more, their mean; Q queries, R and C rows and columns of blocks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.engine.kernels.overview_cpu import add_blocks
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.errors import InputError, StoreAccessError, first_line
from attlas.parse import parse_callback, parse_count, parse_names
from attlas.progress import Progress, Report
from attlas.storage import Atlas, parse_atlas
from attlas.storage.blocks import quantised, seen_blocks
from attlas.storage.lazy import DocumentRows
from attlas.storage.overview import POOLS, STORED_SIDE, OverviewWriter, find_overview, stored_levels
from attlas.storage.page import check_weights
from attlas.storage.stores import Where

__all__ = ["overview_of_layer", "store_overviews"]

Floats = NDArray[Any]
Indices = NDArray[np.int64]

SHORT = 4096
"""Below so many tokens, the coarsest tile of a head is computed within a tenth of a second."""
KEY_BYTES = 128 * 2**20
"""Keys of a layer that are held at once."""
BAND_BYTES = 64 * 2**20
"""Of what is pooled of a band of rows, and of their q."""


def store_overviews(
    atlas: Atlas | Where,
    documents: Sequence[str] | str | None = None,
    *,
    side: int = STORED_SIDE,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Make and keep the overviews of documents, by default of those of SHORT tokens or more.

    >>> store_overviews("demo.zarr")["documents"]
    {'demo': 'short: nothing to store'}

    side: levels of at most so many blocks along a side are stored, 256 to 4096. Those that are there stay; one that was
    begun is gone on with, a layer at a time. progress: is told how many layers are done.

    What was done of each document, the bytes written and the seconds taken. Raises InputError, DocumentMissingError,
    TierError, StoreAccessError where the store cannot be written.
    """
    atlas = parse_atlas(atlas)
    side = parse_count(side, "side", least=256, most=4096)
    parse_callback(progress, "progress")
    names = list(atlas) if documents is None else list(parse_names(documents, "documents"))
    least = SHORT if documents is None else 0
    work = [(name, kind, levels) for name in names for kind, levels in _levels(atlas, name, side, least).items()]
    told = dict.fromkeys(names, "short: nothing to store")
    begun, done, total = time.monotonic(), 0, sum(len(atlas.layers(kind)) for _, kind, _ in work)
    before = weights = 0
    for name, kind, levels in work:
        layers = len(atlas.layers(kind))
        kept = find_overview(atlas, name, kind)
        if kept is not None and set(kept.levels) >= set(levels):
            told[name], done, before = "there already", done + layers, before + layers
            continue
        try:
            writer = OverviewWriter(atlas, name, kind, levels)
            missing = writer.missing
            done, before = done + layers - len(missing), before + layers - len(missing)
            rows = atlas.rows(kind, atlas.committed_index(name))
            for layer in missing:
                codes, cells = overview_of_layer(atlas, rows, layer, levels)
                writer.write(layer, codes)
                done, weights = done + 1, weights + cells
                if progress is not None:
                    seconds = time.monotonic() - begun
                    progress(Progress(what="layer", done=done, total=total, before=before, seconds=seconds))
            writer.publish()
        except (OSError, PermissionError, ValueError) as error:
            if isinstance(error, InputError | StoreAccessError):
                raise
            raise StoreAccessError(
                f"{atlas.name} cannot be written, and keeps no overview: {first_line(error)}: make room, or take a copy"
            ) from error
        told[name] = "stored"
    return {"documents": told, "weights": weights, "seconds": time.monotonic() - begun}


def _levels(atlas: Atlas, document: str, side: int, least: int) -> dict[str, tuple[int, ...]]:
    """kind -> the levels to be stored, where there are any, of maps of at least so many tokens along a side."""
    check_weights(atlas.keep, "attention", document)
    index = atlas.committed_index(document)
    found = {}
    for kind in atlas.kinds:
        rows = atlas.rows(kind, index)
        long = max(rows.queries, rows.keys) >= least
        found[kind] = stored_levels(rows.queries, rows.keys, side) if long else ()
    return {kind: levels for kind, levels in found.items() if levels}


def overview_of_layer(
    atlas: Atlas, rows: DocumentRows, layer: int, levels: tuple[int, ...]
) -> tuple[dict[tuple[str, int], NDArray[np.uint8]], int]:
    """pool and level -> codes (H, R, C) of the layer at a place, as bytes; and how many weights were computed."""
    heads, block = rows.heads, 1 << levels[0]
    start_Q, stop_Q = rows.intervals(layer, np.arange(rows.queries))
    codes: dict[tuple[str, int], NDArray[np.uint8]] = {}
    for pool, level in itertools.product(POOLS, levels):
        size = 1 << level
        codes[pool, level] = np.zeros((heads + 1, -(-rows.queries // size), -(-rows.keys // size)), np.uint8)
    columns = -(-rows.keys // block)
    for begin, end in _bands(rows, levels, columns):
        shape = heads + 1, -(-(end - begin) // block), columns
        largest_HRC, total_HRC = np.zeros(shape, np.float32), np.zeros(shape, np.float64)
        for problem, lse_HQ, low in _problems(atlas, rows, layer, begin, end, block, (start_Q, stop_Q)):
            add_blocks(problem, lse_HQ, largest_HRC, total_HRC, block=block, first_key=low)
        band = slice(begin, end)
        for level in levels:
            if level > levels[0]:
                largest_HRC = _halved(np.maximum, _halved(np.maximum, largest_HRC, 1), 2)
                total_HRC = _halved(np.add, _halved(np.add, total_HRC, 1), 2)
            size = 1 << level
            count_R = np.minimum(size, end - begin - np.arange(0, end - begin, size))
            seen_RC = seen_blocks(start_Q[band], stop_Q[band], size, rows.keys)
            at = slice(begin // size, begin // size + len(count_R))
            for pool, made_HRC in (("max", largest_HRC), ("mass", total_HRC / count_R[:, None])):
                codes[pool, level][:, at][:, seen_RC] = quantised(made_HRC[:, seen_RC].astype(np.float32))
    return codes, heads * int((stop_Q - start_Q).sum())


def _bands(rows: DocumentRows, levels: tuple[int, ...], columns: int) -> Iterator[tuple[int, int]]:
    """Runs of rows that begin with a block of the coarsest level, and whose blocks and q fit BAND_BYTES."""
    coarsest, block = 1 << levels[-1], 1 << levels[0]
    pooled = (rows.heads + 1) * 12 * columns / block
    a_row = pooled + 4 * rows.heads * (rows.features + 1)
    step = max(1, int(BAND_BYTES / a_row) // coarsest) * coarsest
    for begin in range(0, rows.queries, step):
        yield begin, min(begin + step, rows.queries)


def _problems(
    atlas: Atlas, rows: DocumentRows, layer: int, begin: int, end: int, block: int, bounds: tuple[Indices, Indices]
) -> Iterator[tuple[Problem, Any, int]]:
    """A band's problems, log-sum-exp and first keys, over parts of the keys that fit KEY_BYTES."""
    start_Q, stop_Q = (edge_Q[begin:end] for edge_Q in bounds)
    reading, heads, row_Q = replace(rows, readers=atlas.bulk_readers), np.arange(rows.heads), np.arange(begin, end)
    rule, position_Q = rows.rule(layer), rows.position_Q[begin:end]
    kv_heads = len(np.unique(rows.kv_place_H))
    step = max(1, KEY_BYTES // (4 * kv_heads * rows.features) // block) * block
    first, last = int(start_Q.min()), int(stop_Q.max())
    for low in range(first - first % block, last, step):
        high = min(low + step, last)
        low_Q, high_Q = (np.clip(edge_Q, low, high) - low for edge_Q in (start_Q, stop_Q))
        if not (low_Q < high_Q).any():
            continue
        q_HQD, lse_HQ, k_GKD = reading.factors(layer, heads, row_Q, np.arange(low, high))
        yield (
            Problem(
                q_HND=q_HQD, k_GMD=k_GKD, rule=rule.for_heads(heads), start_N=low_Q, stop_N=high_Q,
                tokens=TokenFacts.of_places(end - begin, high - low, position_Q - low if rows.same_axis else None),
            ),
            lse_HQ,
            low,
        )  # fmt: skip


def _halved(reduce: np.ufunc, a: Floats, axis: int) -> Floats:
    """Pairs along an axis made one; an odd last one stays."""
    whole = a.shape[axis] // 2 * 2
    parts = slice(0, whole, 2), slice(1, whole, 2), slice(whole, None)
    first, second, rest = ((slice(None),) * axis + (part,) for part in parts)
    pairs: Floats = reduce(a[first], a[second])
    return np.concatenate([pairs, a[rest]], axis=axis) if whole < a.shape[axis] else pairs
