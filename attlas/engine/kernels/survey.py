"""The survey kernel: everything that analyses ask of rows of weights, in one pass over tiles that stay in the cache.

Row statistics as in `cpu.row_statistics`, and beside them the variance of the attended position, the weight on marked
keys, the weight by distance and by offset, histograms of groups of rows, and the Gram matrix of the heads, summed or
row by row. Runs on the CPU, over any rows of any documents that lie side by side.

Suffixes: H query heads, G kv heads, N query rows, M keys, Q and K those of one tile, D features, T distance bins,
O offsets, C thresholds, B fine histogram bins, X groups of rows.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import passes, survey_passes
from attlas.engine.kernels.cpu_tiles import Tiles
from attlas.engine.kernels.histogram import FINE_BINS
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.engine.kernels.row_sums import RowSums, add_gram

__all__ = ["REACH", "Survey", "SurveyMeasure", "copies", "distance_edges", "survey"]

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]

REACH = 16
"""Offsets `key - query` from -REACH to REACH have a weight of their own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SurveyMeasure:
    """What a survey measures.

    names: row statistics, which have a slot. marked_M: separators. edges_T: of the distance bins. limit_C: thresholds.
    group_N: ascending, the group of each row, of `groups`. row_gram: the Gram matrix of each row, and each a group of
    its own. tile_bytes: the most that a score tile of all heads takes.
    """

    names: tuple[str, ...]
    marked_M: NDArray[np.bool_]
    edges_T: Indices
    limit_C: Floats
    group_N: Indices
    groups: int
    row_gram: bool = False
    tile_bytes: int = TILE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What one call found. Suffixes as in the module.

    rows_HN: name -> (H, N) float32: row statistics, `position_variance` (token^2) and `separator_weight`.
    distance_HNT: weight by distance; offset_HNO: weight at each offset; both zero for cross-attention. below_HNC: how
    many visible weights lie below each threshold.
    count_XHB: counts of visible weights of each group of rows, int64, or int32 where the groups are rows; mass_XHB: the
    sums of these weights, unless the groups are rows. gram_HH: float64, sum over cells of A_h A_g;
    gram_NHH: the same of every row, float32; one of the two, as asked for.
    """

    rows_HN: dict[str, Floats]
    distance_HNT: Floats
    offset_HNO: Floats
    below_HNC: Floats
    count_XHB: NDArray[Any]
    mass_XHB: NDArray[np.float64] | None
    gram_HH: NDArray[np.float64] | None
    gram_NHH: Floats | None


def distance_edges(longest: int) -> Indices:
    """Edges 0, 1, 2, 4, 8, ... of the distance bins [e_t, e_t+1), the last beyond `longest` keys."""
    edges = [0, 1]
    while edges[-1] < longest:
        edges.append(edges[-1] * 2)
    return np.array(edges, dtype=np.int64)


def copies(tokens: TokenFacts, start_N: Indices, stop_N: Indices) -> Indices:
    """(N, 2): visible earlier copies of each query's token, and visible keys that follow one."""
    begin_N, end_N = tokens.copies
    found: Indices = survey_passes.count_copies(
        tokens.first_N, tokens.own_or_none_N, start_N, stop_N, tokens.order.order_M, begin_N, end_N
    )
    return found


def survey(problem: Problem, lse_HN: torch.Tensor, measure: SurveyMeasure) -> Survey:
    """Survey rows whose log-sum-exp (H, N) is known.

    Memory: a tile and its row sums a thread, a float32 copy of factors that are not, and what is returned.
    """
    heads, rows, tokens, row_gram = problem.heads, problem.rows, problem.tokens, measure.row_gram
    tiles, row_sums = Tiles.of(problem, measure.tile_bytes), RowSums.of(lse_HN)
    _ = tokens.copies  # found out here, once, and not by each thread
    mark_M, edges_T, limit_C, group_N = (
        measure.marked_M.astype(np.float32), measure.edges_T, measure.limit_C, measure.group_N,
    )  # fmt: skip
    moment_HNM = np.zeros((heads, rows, survey_passes.MOMENTS))
    distance_HNT = np.zeros((heads, rows, len(edges_T) - 1), dtype=np.float32)
    offset_HNO = np.zeros((heads, rows, 2 * REACH + 1), dtype=np.float32)
    below_HNC = np.zeros((heads, rows, len(limit_C)), dtype=np.float32)
    lanes = 1 if row_gram else passes.LANES
    count_XHB = np.zeros((measure.groups, heads, FINE_BINS), dtype=np.int32 if row_gram else np.int64)
    mass_XHB = None if row_gram else np.zeros((measure.groups, heads, FINE_BINS))
    gram_NHH = np.zeros((rows, heads, heads), dtype=np.float32) if row_gram else None
    gram_HH = torch.zeros(heads, heads, dtype=torch.float64)
    lock = threading.Lock()

    def block(begin: int, end: int) -> None:
        at = slice(begin, end)
        first_group, last_group = int(group_N[begin]), int(group_N[end - 1])
        shape = (last_group - first_group + 1, heads, lanes, FINE_BINS)
        count_XHLB = np.zeros(shape, dtype=np.int32)
        mass_XHLB = np.zeros(shape if mass_XHB is not None else (1,) * 4, dtype=np.float32)
        gram = torch.zeros(heads, heads, dtype=torch.float64)
        # contiguous copies of the accumulators for the compiled pass
        whole: tuple[NDArray[Any], ...] = (moment_HNM, distance_HNT, offset_HNO, below_HNC)
        moment, distance, offset, below = (array[:, at].copy() for array in whole)
        part, group_Q = row_sums.copy(at), group_N[at] - first_group
        bins_K = np.empty(tiles.plan.keys, dtype=np.uint16)
        for tile in tiles.of_block(begin, end):
            mark_K = mark_M[tile.key : tile.key + tile.s_HQK.shape[2]]
            survey_passes.survey(
                tile.s_HQK, tiles.scale, part.lse2_HN, tile.lo_Q, tile.hi_Q, tile.own_Q, tokens.own_N is not None,
                tiles.table_HR, tile.bias_Q, mark_K, edges_T, limit_C, part.sums_HNS, part.largest_HN, part.argmax_HN,
                moment, distance, offset, below, tile.key, group_Q, count_XHLB, mass_XHLB, bins_K,
            )  # fmt: skip
            part.pick(tile, tokens, at)
            a_HQK = torch.from_numpy(tile.s_HQK)
            if gram_NHH is None:
                add_gram(a_HQK, gram)
            else:
                a_QHK = a_HQK.transpose(0, 1)
                gram_NHH[at] += torch.bmm(a_QHK, a_QHK.transpose(1, 2)).numpy()
        row_sums.put(at, part)
        for array, found in zip(whole, (moment, distance, offset, below), strict=True):
            array[:, at] = found
        with lock:
            count_XHB[first_group : last_group + 1] += count_XHLB.sum(axis=2)
            gram_HH.add_(gram)
            if mass_XHB is not None:
                mass_XHB[first_group : last_group + 1] += mass_XHLB.sum(axis=2, dtype=np.float64)

    tiles.each_block(block)
    rows_HN = row_sums.values(problem, lse_HN, measure.names)
    rows_HN["separator_weight"] = moment_HNM[:, :, survey_passes.MARKED].astype(np.float32)
    # a row whose weights are all 0 in float32 stands nowhere, and has no spread
    weight_HN = np.maximum(moment_HNM[:, :, survey_passes.WEIGHT], np.finfo(np.float32).tiny)
    rows_HN["position_variance"] = (moment_HNM[:, :, survey_passes.SPREAD] / weight_HN).astype(np.float32)
    return Survey(
        rows_HN=rows_HN,
        distance_HNT=distance_HNT,
        offset_HNO=offset_HNO,
        below_HNC=below_HNC,
        count_XHB=count_XHB,
        mass_XHB=mass_XHB,
        gram_HH=None if row_gram else gram_HH.numpy(),
        gram_NHH=gram_NHH,
    )
