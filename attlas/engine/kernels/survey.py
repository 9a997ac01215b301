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

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import passes, survey_passes
from attlas.engine.kernels.cpu import LN2, Problem, Tokens, add_gram, spread
from attlas.engine.kernels.reference import TokenFacts
from attlas.engine.kernels.row_statistics import FINE_BINS

__all__ = ["REACH", "Survey", "copies", "distance_edges", "survey"]

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]

REACH = 16
"""Offsets `key - query` from -REACH to REACH have a weight of their own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What one call found. Suffixes as in the module.

    rows_HN: name -> (H, N) float32: the row statistics, `position_variance` (token^2) and `separator_weight`.
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


def copies(facts: TokenFacts, start_N: Indices, stop_N: Indices) -> Indices:
    """(N, 2): visible earlier copies of each query's token, and visible keys that follow one."""
    assert facts.own_N is not None
    tokens = Tokens.of(facts, len(start_N))
    found: Indices = survey_passes.count_copies(
        tokens.first_N, tokens.own_N, start_N, stop_N, tokens.order_M, tokens.group_start_N, tokens.group_stop_N
    )
    return found


def survey(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    rule: ScoreRule,
    *,
    lse_HN: torch.Tensor,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
    marked_M: NDArray[np.bool_],
    edges_T: Indices,
    limit_C: Floats,
    group_N: Indices,
    groups: int,
    row_gram: bool = False,
) -> Survey:
    """Survey rows whose log-sum-exp (H, N) is known.

    start_N, stop_N: key intervals, not empty, in indices into the M keys. marked_M: separators. edges_T: of the
    distance bins. limit_C: thresholds. group_N: ascending, the group of each row, of `groups`. row_gram: the Gram
    matrix of each row, and each a group of its own.
    Memory: a tile and its row sums a thread, a float32 copy of factors that are not, and what is returned.
    """
    heads, rows, _ = q_HND.shape
    problem = Problem.of(q_HND, k_GMD, rule, start_N, stop_N, facts.own_N)
    tokens = Tokens.of(facts, rows)
    lse2_HN = np.ascontiguousarray(lse_HN.numpy() / np.float32(LN2), dtype=np.float32)
    mark_M = marked_M.astype(np.float32)
    sums_HNS = np.zeros((heads, rows, passes.SUMS))
    largest_HN = np.full((heads, rows), -1, dtype=np.float32)
    argmax_HN = np.zeros((heads, rows), dtype=np.int64)
    picked_HNX = np.zeros((heads, rows, 6), dtype=np.float32)
    moment_HNM = np.zeros((heads, rows, survey_passes.MOMENTS))
    distance_HNT = np.zeros((heads, rows, len(edges_T) - 1), dtype=np.float32)
    offset_HNO = np.zeros((heads, rows, 2 * REACH + 1), dtype=np.float32)
    below_HNC = np.zeros((heads, rows, len(limit_C)), dtype=np.float32)
    lanes = 1 if row_gram else passes.LANES
    count_XHB = np.zeros((groups, heads, FINE_BINS), dtype=np.int32 if row_gram else np.int64)
    mass_XHB = None if row_gram else np.zeros((groups, heads, FINE_BINS))
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
        whole: tuple[NDArray[Any], ...] = (
            sums_HNS,
            largest_HN,
            argmax_HN,
            moment_HNM,
            distance_HNT,
            offset_HNO,
            below_HNC,
            picked_HNX,
        )
        sums, largest, argmax, moment, distance, offset, below, picked = (array[:, at].copy() for array in whole)
        bins_K = np.empty(problem.plan.keys, dtype=np.uint16)
        lse2, group_Q = lse2_HN[:, at].copy(), group_N[at] - first_group
        for tile in problem.tiles(begin, end):
            mark_K = mark_M[tile.key : tile.key + tile.s_HQK.shape[2]]
            survey_passes.survey(
                tile.s_HQK, problem.scale, lse2, tile.lo_Q, tile.hi_Q, tile.own_Q, facts.own_N is not None,
                problem.table_HR, tile.bias_Q, mark_K, edges_T, limit_C, sums, largest, argmax, moment, distance,
                offset, below, tile.key, group_Q, count_XHLB, mass_XHLB, bins_K,
            )  # fmt: skip
            passes.special(
                tile.s_HQK, tile.key, tokens.first_N[at], tokens.own_N[at], tokens.special_S, tokens.order_M,
                tokens.group_start_N[at], tokens.group_stop_N[at], picked,
            )  # fmt: skip
            a_HQK = torch.from_numpy(tile.s_HQK)
            if gram_NHH is None:
                add_gram(a_HQK, gram)
            else:
                a_QHK = a_HQK.transpose(0, 1)
                gram_NHH[at] += torch.bmm(a_QHK, a_QHK.transpose(1, 2)).numpy()
        for array, part in zip(whole, (sums, largest, argmax, moment, distance, offset, below, picked), strict=True):
            array[:, at] = part
        with lock:
            count_XHB[first_group : last_group + 1] += count_XHLB.sum(axis=2)
            gram_HH.add_(gram)
            if mass_XHB is not None:
                mass_XHB[first_group : last_group + 1] += mass_XHLB.sum(axis=2, dtype=np.float64)

    spread(block, problem.plan.blocks, start_N, stop_N)
    rows_HN: dict[str, NDArray[Any]] = {
        "entropy": sums_HNS[:, :, passes.ENTROPY] * LN2,
        "max_weight": largest_HN,
        "argmax_key": argmax_HN - facts.first_N,
        "first_weight": picked_HNX[:, :, 0],
        "squared_sum": sums_HNS[:, :, passes.SQUARED],
        "special_weight": picked_HNX[:, :, 3],
        "separator_weight": moment_HNM[:, :, survey_passes.MARKED],
        "sink_residual": 1 - sums_HNS[:, :, passes.TOTAL],
        # a row whose weights are all 0 in float32 stands nowhere, and has no spread
        "position_variance": moment_HNM[:, :, survey_passes.SPREAD]
        / np.maximum(moment_HNM[:, :, survey_passes.WEIGHT], np.finfo(np.float32).tiny),
    }
    if facts.own_N is not None:
        rows_HN |= {
            "self_weight": picked_HNX[:, :, 1],
            "previous_weight": picked_HNX[:, :, 2],
            "mean_distance": sums_HNS[:, :, passes.DISTANCE],
            "duplicate_weight": picked_HNX[:, :, 4],
            "induction_weight": picked_HNX[:, :, 5],
        }
    return Survey(
        rows_HN={name: value.astype(np.float32, copy=False) for name, value in rows_HN.items()},
        distance_HNT=distance_HNT,
        offset_HNO=offset_HNO,
        below_HNC=below_HNC,
        count_XHB=count_XHB,
        mass_XHB=mass_XHB,
        gram_HH=None if row_gram else gram_HH.numpy(),
        gram_NHH=gram_NHH,
    )
