"""A layer's attention as a linear map, on the CPU: q . k by BLAS into a tile that stays in the L2 cache, one compiled
pass that makes it weights, or the mean of the heads' weights, and one product.

Rows (A @ X) or keys (A.T @ X) are spread over as many threads as torch has: no two of them add to one place. Where the
smallest weights are discarded, which takes whole rows, A.T @ X is added up in turn.

Suffixes: H query heads, G kv heads, N query rows, M keys, Q and K those of one tile, C columns of X.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import operator_passes
from attlas.engine.kernels.cpu_tiles import LN2, Tiles
from attlas.engine.kernels.discard import Discard
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.reference import plan_rows
from attlas.engine.kernels.threads import available, spread

__all__ = ["apply", "apply_transposed"]

Floats = NDArray[np.float32]
Block = tuple[slice, slice, torch.Tensor]
"""Rows, keys, and their weights: (H, Q, K), or (Q, K) the sum over heads."""

LEAST_KEYS, TASKS = 512, 4
"""Keys of one task of A.T @ X at least, since each goes through all rows anew; tasks a thread, which cost unlike."""

SMALL_CELLS = 2**17


def apply(
    problem: Problem,
    lse_HN: torch.Tensor,
    x: torch.Tensor,
    *,
    mean: bool = False,
    discard: Discard | None = None,
    tile_bytes: int = TILE_BYTES,
) -> torch.Tensor:
    """A @ X; as `operator_reference.apply`, of float32 weights. Sums are in the dtype of X.

    Memory: a tile a thread (at most cpu_tiles.TILE_BYTES and `tile_bytes`, or 8 x 64 cells), with `discard` whole rows
    of `tile_bytes` (or one row) beside it, a float32 copy of factors that are not, X, and what is returned.
    """
    heads, columns = problem.heads, x.shape[-1]
    out = x.new_zeros((problem.rows, columns) if mean else (heads, problem.rows, columns))
    tiles, lse2_HN, pooled = Tiles.of(problem, tile_bytes), _base_two(lse_HN), mean and x.ndim == 2

    def block(begin: int, end: int) -> None:
        for at, seen, a in _weights(tiles, lse2_HN, begin, end, pooled):
            if pooled:
                out[at].addmm_(a.to(x.dtype), x[seen])
            elif mean:
                out[at] += torch.bmm(a.to(x.dtype), x[:, seen]).sum(0)
            elif x.ndim == 2:
                out[:, at] += (a.to(x.dtype).view(-1, a.shape[2]) @ x[seen]).view(heads, -1, columns)
            else:
                out[:, at].baddbmm_(a.to(x.dtype), x[:, seen])

    if discard is not None:

        def whole(at: slice, seen: slice, a_QK: Floats) -> None:
            out[at] = torch.from_numpy(a_QK).to(x.dtype) @ x[seen]

        _each_whole_row(tiles, lse2_HN, discard, tile_bytes, whole)
        return out
    tiles.each_block(block)
    return out.div_(heads) if mean else out


def apply_transposed(
    problem: Problem,
    lse_HN: torch.Tensor,
    x: torch.Tensor,
    *,
    mean: bool = False,
    discard: Discard | None = None,
    tile_bytes: int = TILE_BYTES,
) -> torch.Tensor:
    """A.T @ X; as `operator_reference.apply_transposed`, of float32 weights. Sums and memory as `apply`; with `discard`
    a product of all keys a thread, too."""
    heads, keys, columns = problem.heads, problem.keys, x.shape[-1]
    out = x.new_zeros((keys, columns) if mean else (heads, keys, columns))
    tiles, lse2_HN, pooled = Tiles.of(problem, tile_bytes), _base_two(lse_HN), mean and x.ndim == 2
    width = keys if available() == 1 else max(LEAST_KEYS, -(-keys // (TASKS * available())))
    parts = [(key, min(key + width, keys)) for key in range(0, keys, width)]

    def part(number: int) -> None:
        low, high = parts[number]
        some, mine = _of_keys(tiles, low, high), out[..., low:high, :]
        for begin, end in some.plan.blocks:
            for at, seen, a in _weights(some, lse2_HN, begin, end, pooled):
                if pooled:
                    mine[seen].addmm_(a.to(x.dtype).T, x[at])
                elif mean:
                    mine[seen] += torch.bmm(a.to(x.dtype).transpose(1, 2), x[:, at]).sum(0)
                else:
                    x_HQC = x[:, at] if x.ndim == 3 else x[at].expand(heads, -1, -1)
                    mine[:, seen].baddbmm_(a.to(x.dtype).transpose(1, 2), x_HQC)

    if discard is not None:
        lock = threading.Lock()

        def whole(at: slice, seen: slice, a_QK: Floats) -> None:
            product_KC = torch.from_numpy(a_QK).to(x.dtype).T @ x[at]
            with lock:
                out[seen] += product_KC

        _each_whole_row(tiles, lse2_HN, discard, tile_bytes, whole)
        return out
    costs = [
        heads * int((np.clip(problem.stop_N, low, high) - np.clip(problem.start_N, low, high)).sum())
        for low, high in parts
    ]
    spread(part, costs, small=SMALL_CELLS)
    return out.div_(heads) if mean else out


def _base_two(lse_HN: torch.Tensor) -> Floats:
    return np.ascontiguousarray(lse_HN.float().numpy() / np.float32(LN2), dtype=np.float32)


def _of_keys(tiles: Tiles, low: int, high: int) -> Tiles:
    """The same rows, of some of the keys; a row may see none of them."""
    problem = tiles.problem
    part = replace(
        problem, k_GMD=problem.k_GMD[:, low:high], start_N=np.clip(problem.start_N, low, high) - low,
        stop_N=np.clip(problem.stop_N, low, high) - low,
    )  # fmt: skip
    return replace(tiles, problem=part, own_N=tiles.own_N - low)


def _weights(tiles: Tiles, lse2_HN: Floats, begin: int, end: int, pooled: bool) -> Iterator[Block]:
    """The weights of a row block, tile by tile; of all heads, or, pooled, their sum over heads."""
    lse2_HQ, at = lse2_HN[:, begin:end].copy(), slice(begin, end)
    sum_QK = np.empty((end - begin, tiles.plan.keys), dtype=np.float32) if pooled else None
    for tile in tiles.of_block(begin, end):
        keys = tile.s_HQK.shape[2]
        seen = slice(tile.key, tile.key + keys)
        rest: tuple[Any, ...] = (tiles.scale, lse2_HQ, tile.lo_Q, tile.hi_Q, tiles.table_HR, tile.bias_Q)
        if sum_QK is None:
            operator_passes.weigh(tile.s_HQK, *rest)
            yield at, seen, torch.from_numpy(tile.s_HQK)
        else:
            operator_passes.add_heads(tile.s_HQK, *rest, sum_QK[:, :keys])
            yield at, seen, torch.from_numpy(sum_QK[:, :keys])


def _each_whole_row(tiles: Tiles, lse2_HN: Floats, discard: Discard, tile_bytes: int, visit: Any) -> None:
    """visit(rows, keys, weights (Q, K)) for all rows, in blocks of at most `tile_bytes` or one row: the mean of the
    heads, less what is discarded."""
    problem = tiles.problem
    start_N, stop_N = problem.start_N, problem.stop_N
    blocks = [block for block in plan_rows(start_N, stop_N, 4, tile_bytes) if block[2] < block[3]]

    def block(number: int) -> None:
        begin, end, low, high = blocks[number]
        a_QK = np.zeros((end - begin, high - low), dtype=np.float32)
        for row in range(begin, end, tiles.plan.rows):
            for at, seen, sum_QK in _weights(tiles, lse2_HN, row, min(row + tiles.plan.rows, end), True):
                here = a_QK[at.start - begin : at.stop - begin, seen.start - low : seen.stop - low]
                np.divide(sum_QK.numpy(), np.float32(problem.heads), out=here)
        at = slice(begin, end)
        operator_passes.discard_smallest(a_QK, start_N[at] - low, stop_N[at] - low, discard.share, discard.threshold)
        visit(at, slice(low, high), a_QK)

    spread(block, [problem.heads * int((stop_N[b:e] - start_N[b:e]).sum()) for b, e, _, _ in blocks], small=SMALL_CELLS)
