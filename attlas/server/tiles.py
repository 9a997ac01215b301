"""Tiles of a map of weights: 256 x 256 blocks of 2^level x 2^level cells, each by its largest weight or its mass.

Suffixes: Q queries, K keys, R and C the blocks of a tile along them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError
from attlas.parse import parse_count
from attlas.storage.blocks import quantised, seen_blocks
from attlas.storage.lazy import LazyAttention
from attlas.storage.overview import POOLS, SIDE

__all__ = ["FORMATS", "POOLS", "SIDE", "Box", "HeadMap", "choose_box", "encode", "pooled", "top_level"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

FORMATS = ("u8", "f16", "f32")
BLOCK_BYTES = 16 * 2**20
"""Weights that are held at a time, float32; of a mean over heads four times as much, for its sum and its parts."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadMap:
    """The map of one head of a layer, or of the mean over several, as it is computed from the factors.

    layer, heads: places in the store. start_Q, stop_Q: the key intervals of the rows.
    """

    attention: LazyAttention
    layer: int
    heads: tuple[int, ...]
    start_Q: Indices
    stop_Q: Indices

    def cells(self, queries: slice, keys: slice) -> Floats:
        """Weights (Q, K) of some rows and keys, 0 where masked; the mean over heads is taken in float64."""
        rows, columns = (np.arange(part.start, part.stop) for part in (queries, keys))
        layer = np.array([self.layer])

        def of(head: int) -> Floats:
            return self.attention.compute([layer, np.array([head]), rows, columns])[0, 0]

        if len(self.heads) == 1:
            return of(self.heads[0])
        total_QK = np.zeros((len(rows), len(columns)))
        for head in self.heads:
            total_QK += of(head)
        return (total_QK / len(self.heads)).astype(np.float32)

    def cost(self, box: Box) -> int:
        """Cells of a tile that are computed: those that its rows may see, in every head."""
        start_Q, stop_Q = self.start_Q[box.queries], self.stop_Q[box.queries]
        seen_Q = np.minimum(stop_Q, box.keys.stop) - np.maximum(start_Q, box.keys.start)
        return int(np.maximum(seen_Q, 0).sum()) * len(self.heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where a tile lies: blocks of `block` x `block` cells of these queries and keys; the last may be smaller."""

    level: int
    row: int
    column: int
    queries: slice
    keys: slice

    @property
    def block(self) -> int:
        return 1 << self.level

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        rows, columns = (-(-(part.stop - part.start) // self.block) for part in (self.queries, self.keys))
        return rows, columns


def top_level(queries: int, keys: int) -> int:
    """The least level at which a map of this size is one tile.

    >>> top_level(146, 146), top_level(8192, 8192), top_level(8193, 20)
    (0, 5, 6)
    """
    return (max(1, -(-max(queries, keys) // SIDE)) - 1).bit_length()


def choose_box(queries: int, keys: int, level: Any, row: Any, column: Any) -> Box:
    """The tile of a map of this size; raises InputError where the map has no such tile.

    >>> box = choose_box(1000, 600, 1, 1, 1)
    >>> box.queries, box.keys, box.shape
    (slice(512, 1000, None), slice(512, 600, None), (244, 44))
    """
    level = parse_count(level, "level", least=0, most=top_level(queries, keys))
    side = SIDE << level
    places = []
    for given, name, size in ((row, "row", queries), (column, "column", keys)):
        place = parse_count(given, name, least=0)
        if place * side >= size:
            raise InputError(
                f"{name} is {place}: at level {level} a map of {queries:,} x {keys:,} has {-(-size // side)} along it, "
                "counted from 0"
            )
        places.append(slice(place * side, min(size, (place + 1) * side)))
    return Box(level=level, row=int(row), column=int(column), queries=places[0], keys=places[1])


def pooled(head_map: HeadMap, box: Box, pool: str) -> Floats:
    """A tile (R, C), float32, NaN where no query of a block may see any key of it; at level 0 the weights themselves.

    pool: "max", the largest weight of a block; "mass", the sum over its keys of the mean over its queries, summed in
    float64. Computes the rows some at a time, each as far as its keys go, and holds BLOCK_BYTES of weights.
    """
    rows, columns = box.shape
    block, first_key = box.block, box.keys.start
    made_RC = np.zeros((rows, columns), np.float32 if pool == "max" else np.float64)
    step = _rows_at_once(box)
    for begin in range(box.queries.start, box.queries.stop, step):
        queries = slice(begin, min(begin + step, box.queries.stop))
        low = max(int(head_map.start_Q[queries].min()), first_key)
        stop = min(int(head_map.stop_Q[queries].max()), box.keys.stop)
        if low >= stop:
            continue
        low -= (low - first_key) % block
        a_QK = head_map.cells(queries, slice(low, stop))
        row = (begin - box.queries.start) // block
        column = (low - first_key) // block
        if pool == "max":
            part_RC = _reduced(np.maximum, _reduced(np.maximum, a_QK, block, 0), block, 1)
        else:
            part_RC = _reduced(np.add, _reduced(np.add, a_QK, block, 0), block, 1)
        target_RC = made_RC[row : row + len(part_RC), column : column + part_RC.shape[1]]
        (np.maximum if pool == "max" else np.add)(target_RC, part_RC, out=target_RC)
    if pool == "mass":
        size = box.queries.stop - box.queries.start
        made_RC /= np.minimum(block, size - np.arange(0, size, block))[:, None]
    tile_RC = made_RC.astype(np.float32)
    size = box.keys.stop - first_key
    edges = head_map.start_Q[box.queries], head_map.stop_Q[box.queries]
    low_Q, high_Q = (np.clip(edge_Q - first_key, 0, size) for edge_Q in edges)
    tile_RC[~seen_blocks(low_Q, high_Q, block, size)] = np.nan
    return tile_RC


def encode(tile: Floats, form: str) -> NDArray[Any]:
    """A tile in one of FORMATS."""
    if form == "u8":
        return quantised(tile)
    return tile.astype(np.float16 if form == "f16" else np.float32, copy=False)


def _rows_at_once(box: Box) -> int:
    """Rows whose weights fit BLOCK_BYTES: some whole blocks, or a part of one that divides it."""
    most = max(1, BLOCK_BYTES // (4 * (box.keys.stop - box.keys.start)))
    return int(max(1, most // box.block) * box.block if most >= box.block else 1 << (most.bit_length() - 1))


def _reduced(reduce: np.ufunc, a: NDArray[Any], block: int, axis: int) -> NDArray[Any]:
    """Runs of `block` along an axis made one, the last of what is left; sums are in float64."""
    if block == 1:
        return a
    dtype = np.float64 if reduce is np.add else None
    whole = a.shape[axis] // block * block
    body, rest = (a[:whole], a[whole:]) if axis == 0 else (a[:, :whole], a[:, whole:])
    shape = (-1, block, a.shape[1]) if axis == 0 else (a.shape[0], -1, block)
    parts = [reduce.reduce(body.reshape(shape), axis=axis + 1, dtype=dtype)] if whole else []
    if rest.size:
        parts.append(reduce.reduce(rest, axis=axis, dtype=dtype, keepdims=True))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
