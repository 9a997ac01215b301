"""The CPU kernel: q . k by BLAS into a tile that stays in the L2 cache, then one compiled pass over it.

Row statistics need the rows' log-sum-exp beforehand: a tile of weights is then final at once, keys may be cut as well
as rows, and nothing is ever rescaled. `attend` finds it together with the layer's output, by an online softmax (Milakov
and Gimelshein 2018; Dao et al. 2022), for the score rules that torch's fused attention does not compute.

Row blocks are spread over as many threads as torch has; each thread multiplies and measures its own tiles.

Suffixes: H query heads, G kv heads (H a multiple of G), N query rows, M keys, Q and K those of one tile, D features,
V value features, B histogram bins.
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from attlas.engine.kernels import passes
from attlas.engine.kernels.cpu_tiles import LN2, TILE_BYTES, Tiles
from attlas.engine.kernels.histogram import HISTOGRAM_BINS
from attlas.engine.kernels.measure import Attended, Measure, RowStatistics
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.row_sums import RowSums, add_gram

__all__ = ["attend", "row_statistics"]


def row_statistics(problem: Problem, lse_HN: torch.Tensor, measure: Measure) -> RowStatistics:
    """Row statistics, float32, that have a slot, of factors in any float dtype and their rows' log-sum-exp (H, N).

    Memory: a tile a thread (at most cpu_tiles.TILE_BYTES and `measure.tile_bytes`, or 8 x 64 cells), a float32 copy of
    factors that are not, and what is returned.
    """
    heads = problem.heads
    tiles, sums = Tiles.of(problem, measure.tile_bytes), RowSums.of(lse_HN)
    _ = problem.tokens.copies  # found out here, once, and not by each thread
    count_HB = np.zeros((heads, HISTOGRAM_BINS), dtype=np.int64)
    gram_HH = torch.zeros(heads, heads, dtype=torch.float64)
    lock = threading.Lock()

    def block(begin: int, end: int) -> None:
        count_HLB = np.zeros((heads, passes.LANES, HISTOGRAM_BINS), dtype=np.int32)
        gram = torch.zeros(heads, heads, dtype=torch.float64)
        at = slice(begin, end)
        part, bins_K = sums.copy(at), np.empty(tiles.plan.keys, dtype=np.uint8)
        for tile in tiles.of_block(begin, end):
            passes.measure(
                tile.s_HQK, tiles.scale, part.lse2_HN, tile.lo_Q, tile.hi_Q, tile.own_Q, tiles.table_HR, tile.bias_Q,
                part.sums_HNS, part.largest_HN, part.argmax_HN, tile.key, count_HLB, bins_K, measure.histogram,
            )  # fmt: skip
            part.pick(tile, problem.tokens, at)
            if measure.head_gram:
                add_gram(torch.from_numpy(tile.s_HQK), gram)
        sums.put(at, part)
        with lock:
            count_HB[:] += count_HLB.sum(axis=1)
            gram_HH.add_(gram)

    tiles.each_block(block)
    values = sums.values(problem, lse_HN, measure.names)
    return RowStatistics(
        lse_HN=lse_HN,
        statistics={name: torch.from_numpy(value) for name, value in values.items()},
        histogram_HB=torch.from_numpy(count_HB) if measure.histogram else None,
        head_gram_HH=gram_HH if measure.head_gram else None,
    )


def attend(problem: Problem, v_GMV: torch.Tensor, *, tile_bytes: int = TILE_BYTES) -> Attended:
    """Output (N, H, V) in the values' dtype and log-sum-exp (H, N), float32, for every score rule."""
    heads, rule, groups = problem.heads, problem.rule, problem.groups
    tiles, v_GMV32 = Tiles.of(problem, tile_bytes), v_GMV.float()
    out_NHV = v_GMV.new_empty(problem.rows, heads, v_GMV.shape[2])
    lse_HN = torch.empty(heads, problem.rows)

    def block(begin: int, end: int) -> None:
        count = end - begin
        top = np.full((heads, count), -np.inf, dtype=np.float32)
        total, shrink = np.zeros((heads, count), dtype=np.float32), np.ones((heads, count), dtype=np.float32)
        out_HQV = torch.zeros(heads, count, v_GMV.shape[2])
        for tile in tiles.of_block(begin, end):
            passes.accumulate(
                tile.s_HQK, tiles.scale, tile.lo_Q, tile.hi_Q, tiles.table_HR, tile.bias_Q, top, total, shrink
            )
            p_GRK = torch.from_numpy(tile.s_HQK).view(groups, -1, tile.s_HQK.shape[2])
            now_HQV = torch.bmm(p_GRK, v_GMV32[:, tile.key : tile.key + tile.s_HQK.shape[2]])
            out_HQV.mul_(torch.from_numpy(shrink)[:, :, None]).add_(now_HQV.view_as(out_HQV))
        lse_HQ = (torch.from_numpy(top).double() + torch.from_numpy(total).double().log2()) * LN2
        share_HQ = 1 / torch.from_numpy(total)
        if rule.sink_H is not None:
            with_sink_HQ = torch.logaddexp(lse_HQ, torch.from_numpy(rule.sink_H).double()[:, None])
            share_HQ, lse_HQ = share_HQ * torch.exp(lse_HQ - with_sink_HQ).float(), with_sink_HQ
        out_NHV[begin:end] = (out_HQV * share_HQ[:, :, None]).transpose(0, 1)
        lse_HN[:, begin:end] = lse_HQ

    tiles.each_block(block)
    return Attended(out_NHV=out_NHV, rows=RowStatistics(lse_HN=lse_HN))
