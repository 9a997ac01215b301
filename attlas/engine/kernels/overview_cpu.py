"""Blocks of cells by their largest weight and by their sum, of every head and of their mean, on the CPU: q . k by BLAS
into a tile that stays in the L2 cache, and compiled passes that make it weights and pool them there.

Suffixes: H query heads and one more, the mean; N query rows, Q and K those of one tile, R and C rows and columns of
blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from attlas.engine.kernels import operator_passes, passes
from attlas.engine.kernels.cpu_tiles import LN2, Tiles
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.kernels.passes import FAST
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.threads import spread

__all__ = ["add_blocks"]

SMALL_CELLS = 2**17


def add_blocks(
    problem: Problem,
    lse_HN: torch.Tensor,
    largest_HRC: NDArray[np.float32],
    total_HRC: NDArray[np.float64],
    *,
    block: int,
    first_key: int = 0,
    tile_bytes: int = TILE_BYTES,
) -> None:
    """Pool a problem's weights into blocks of `block` x `block` cells: largest weights, and sums.

    largest_HRC, total_HRC: (H + 1, R, C), 0 where nothing was pooled yet; the last is the mean of the heads. block: a
    power of two. The problem's rows begin with the blocks' first row. first_key: the place of its first key among the
    blocks' keys. Memory: a tile a thread, and one of a single head.
    """
    tiles = Tiles.of(problem, tile_bytes)
    lse2_HN = np.ascontiguousarray(lse_HN.float().numpy() / np.float32(LN2), dtype=np.float32)
    step = max(block, tiles.plan.rows)  # no two tasks pool into one row of blocks
    tasks = [(begin, min(begin + step, problem.rows)) for begin in range(0, problem.rows, step)]

    def task(number: int) -> None:
        mean_QK = np.empty((tiles.plan.rows, tiles.plan.keys), np.float32)
        buffer_2K = np.empty((2, tiles.plan.keys), np.float32)
        for begin in range(*tasks[number], tiles.plan.rows):
            end = min(begin + tiles.plan.rows, tasks[number][1])
            lse2_HQ = lse2_HN[:, begin:end].copy()
            for tile in tiles.of_block(begin, end):
                operator_passes.weigh(
                    tile.s_HQK, tiles.scale, lse2_HQ, tile.lo_Q, tile.hi_Q, tiles.table_HR, tile.bias_Q
                )
                where = begin, first_key + tile.key, block
                _pool(tile.s_HQK, mean_QK, buffer_2K, *where, largest_HRC, total_HRC)

    seen_N = problem.stop_N - problem.start_N
    spread(task, [problem.heads * int(seen_N[begin:end].sum()) for begin, end in tasks], small=SMALL_CELLS)


@njit(**FAST)
def _run(largest_K: Any, total_K: Any) -> Any:
    largest, total = np.float32(0), np.float32(0)
    for j in range(largest_K.shape[0]):
        largest = passes.larger(largest, largest_K[j])
        total += total_K[j]
    return largest, total


@njit(**FAST)
def _fold(a_K: Any, largest_K: Any, total_K: Any) -> None:
    for j in range(a_K.shape[0]):
        largest_K[j] = passes.larger(largest_K[j], a_K[j])
        total_K[j] += a_K[j]


@njit(**FAST)
def _add(a_K: Any, out_K: Any) -> None:
    for j in range(a_K.shape[0]):
        out_K[j] += a_K[j]


@njit(**FAST)
def _pool_map(
    a_QK: Any, factor: Any, buffer_2K: Any, row: int, first: int, block: int, largest_RC: Any, total_RC: Any
) -> None:
    """Rows of one block are folded into one row of columns, and its columns then into blocks."""
    rows, keys = a_QK.shape
    largest_K, total_K = buffer_2K[0, :keys], buffer_2K[1, :keys]
    begin = 0
    while begin < rows:
        place = (row + begin) // block
        end = min(rows, (place + 1) * block - row)
        buffer_2K[:, :keys] = 0
        for i in range(begin, end):
            _fold(a_QK[i], largest_K, total_K)
        at = 0
        while at < keys:
            column = (first + at) // block
            stop = min(keys, (column + 1) * block - first)
            largest, total = _run(largest_K[at:stop], total_K[at:stop])
            largest_RC[place, column] = max(largest_RC[place, column], largest * factor)
            total_RC[place, column] += total * factor
            at = stop
        begin = end


@njit(**FAST)
def _pool(
    a_HQK: Any, mean_QK: Any, buffer_2K: Any, row: int, first: int, block: int, largest_HRC: Any, total_HRC: Any
) -> None:
    """Weights, 0 where masked. row, first: places of the tile's first row and key among those of the blocks."""
    heads, rows, keys = a_HQK.shape
    some_QK = mean_QK[:rows, :keys]
    some_QK[:] = 0
    for h in range(heads):
        _pool_map(a_HQK[h], np.float32(1), buffer_2K, row, first, block, largest_HRC[h], total_HRC[h])
        for i in range(rows):
            _add(a_HQK[h, i], some_QK[i])
    factor = np.float32(1) / np.float32(heads)
    _pool_map(some_QK, factor, buffer_2K, row, first, block, largest_HRC[heads], total_HRC[heads])
