"""The compiled pass of the survey: what one row of weights tells beside its row statistics, while it lies in the cache.

Suffixes: H heads, Q rows and K keys of the tile, T distance bins, O offsets, C thresholds,
B histogram bins, X groups of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from attlas.engine.kernels import passes
from attlas.engine.kernels.histogram import FINE_BINS, OCTAVES
from attlas.engine.kernels.passes import FAST, LOG2E, MAXIMUM

__all__ = ["MARKED", "MEAN", "MOMENTS", "SPREAD", "WEIGHT", "count_copies", "survey"]

TOP, PER_OCTAVE = np.float32(FINE_BINS), np.float32(FINE_BINS // OCTAVES)

MOMENTS = 4
WEIGHT, MEAN, SPREAD, MARKED = range(MOMENTS)
"""Places on the last axis of the second accumulator: sum of weights, mean key, sum a (j - mean)^2, marked keys."""


@njit(**FAST)
def _weigh(s_K: Any, bins_K: Any, scale: Any, lse2: Any, own: Any, sums: Any) -> None:
    """`passes.weigh_row` with fine bins."""
    entropy, squared, distance, total = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    largest, ahead = np.float32(0), np.float32(own)
    for j in range(s_K.shape[0]):
        t = passes.larger(s_K[j] * scale - lse2, passes.LOWEST)
        a = passes.exp2(t)
        s_K[j] = a
        entropy -= a * t
        squared += a * a
        distance += a * abs(ahead)
        ahead -= np.float32(1)
        total += a
        largest = passes.larger(largest, a)
        bins_K[j] = np.uint16(passes.smaller(passes.larger(t * PER_OCTAVE + TOP, np.float32(0)), TOP - np.float32(1)))
    sums[passes.ENTROPY] += entropy
    sums[passes.SQUARED] += squared
    sums[passes.DISTANCE] += distance
    sums[passes.TOTAL] += total
    sums[MAXIMUM] = largest


@njit(**FAST)
def _count_weights(a_K: Any, bins_K: Any, count_LB: Any, mass_LB: Any) -> None:
    """Count weights into bins, and add them up, in four tables in turn, as `passes.count_bins` does."""
    full = bins_K.shape[0] // passes.LANES * passes.LANES
    for j in range(0, full, passes.LANES):
        b0, b1, b2, b3 = bins_K[j], bins_K[j + 1], bins_K[j + 2], bins_K[j + 3]
        count_LB[0, b0] += 1
        count_LB[1, b1] += 1
        count_LB[2, b2] += 1
        count_LB[3, b3] += 1
        mass_LB[0, b0] += a_K[j]
        mass_LB[1, b1] += a_K[j + 1]
        mass_LB[2, b2] += a_K[j + 2]
        mass_LB[3, b3] += a_K[j + 3]
    for j in range(full, bins_K.shape[0]):
        count_LB[0, bins_K[j]] += 1
        mass_LB[0, bins_K[j]] += a_K[j]


@njit(**FAST)
def _count_below(a_K: Any, threshold: Any) -> Any:
    count = np.float32(0)
    for j in range(a_K.shape[0]):
        count += np.float32(1) if a_K[j] < threshold else np.float32(0)
    return count


@njit(**FAST)
def _first_moments(a_K: Any, mark_K: Any, out: Any) -> None:
    """Sum of a, of a x column, and of a on marked columns."""
    total, first, marked = np.float32(0), np.float32(0), np.float32(0)
    for j in range(a_K.shape[0]):
        a = a_K[j]
        total += a
        first += a * np.float32(j)
        marked += a * mark_K[j]
    out[0], out[1], out[2] = total, first, marked


@njit(**FAST)
def _spread_about(a_K: Any, mean: Any) -> Any:
    """Sum of a (column - mean)^2."""
    total = np.float32(0)
    for j in range(a_K.shape[0]):
        away = np.float32(j) - mean
        total += a_K[j] * away * away
    return total


@njit(**FAST)
def _sum(a_K: Any) -> Any:
    total = np.float32(0)
    for j in range(a_K.shape[0]):
        total += a_K[j]
    return total


@njit(**FAST)
def _by_distance(row: Any, lo: Any, hi: Any, own: Any, edges_T: Any, out_T: Any) -> None:
    """Add the weights of columns [lo, hi) to the bins of their distance from column `own`, before and behind it."""
    for t in range(out_T.shape[0]):
        near, far = edges_T[t], edges_T[t + 1]
        begin, end = max(lo, own - far + 1), min(hi, own - near + 1)
        if begin < end:
            out_T[t] += _sum(row[begin:end])
        if near > 0:
            begin, end = max(lo, own + near), min(hi, own + far)
            if begin < end:
                out_T[t] += _sum(row[begin:end])


@njit(**FAST)
def survey(
    s_HQK: Any,
    scale: Any,
    lse2_HQ: Any,
    lo_Q: Any,
    hi_Q: Any,
    own_Q: Any,
    has_own: Any,
    table_HR: Any,
    bias_Q: Any,
    mark_K: Any,
    edges_T: Any,
    limit_C: Any,
    sums_HQS: Any,
    largest_HQ: Any,
    argmax_HQ: Any,
    moment_HQM: Any,
    distance_HQT: Any,
    offset_HQO: Any,
    below_HQC: Any,
    key0: Any,
    group_Q: Any,
    count_XHLB: Any,
    mass_XHLB: Any,
    bins_K: Any,
) -> None:
    """Scores -> weights in place, zero outside the intervals; every accumulator is added to.

    scale, lse2_HQ, own_Q, table_HR, bias_Q: as in `passes.measure`. has_own: queries and keys lie on one token axis.
    mark_K: 1 for marked keys of the tile. limit_C: thresholds. group_Q: the row's place on the first axis of
    count_XHLB, whose third is one table, or, with mass_XHLB beside, as many as are filled in turn.
    """
    heads, rows = s_HQK.shape[:2]
    reach = offset_HQO.shape[2] // 2
    first = np.zeros(3)
    for h in range(heads):
        for i in range(rows):
            lo, hi = lo_Q[i], hi_Q[i]
            row = s_HQK[h, i]
            if lo >= hi:
                row[:] = 0
                continue
            row[:lo] = 0
            row[hi:] = 0
            seen = row[lo:hi]
            if table_HR.shape[1]:
                passes.add_bias(seen, table_HR[h], bias_Q[i] + lo, np.float32(scale / LOG2E))
            bins, own = bins_K[lo:hi], own_Q[i]
            _weigh(seen, bins, scale, lse2_HQ[h, i], own - lo, sums_HQS[h, i])
            if sums_HQS[h, i, MAXIMUM] > largest_HQ[h, i]:
                largest_HQ[h, i] = sums_HQS[h, i, MAXIMUM]
                argmax_HQ[h, i] = key0 + lo + np.argmax(seen)
            if count_XHLB.shape[2] == 1:
                for j in range(bins.shape[0]):
                    count_XHLB[group_Q[i], h, 0, bins[j]] += 1
            else:
                _count_weights(seen, bins, count_XHLB[group_Q[i], h], mass_XHLB[group_Q[i], h])
            for c in range(limit_C.shape[0]):
                below_HQC[h, i, c] += _count_below(seen, limit_C[c])
            _first_moments(seen, mark_K[lo:hi], first)
            moment = moment_HQM[h, i]
            moment[MARKED] += first[2]
            if first[0] > 0:
                local = first[1] / first[0]
                spread = _spread_about(seen, np.float32(local))
                # two parts of one row joined: Chan, Golub and LeVeque 1979
                mean, total = key0 + lo + local, moment[WEIGHT] + first[0]
                away = mean - moment[MEAN]
                moment[SPREAD] += spread + away * away * moment[WEIGHT] * first[0] / total
                moment[MEAN] += away * first[0] / total
                moment[WEIGHT] = total
            if has_own:
                _by_distance(row, lo, hi, own, edges_T, distance_HQT[h, i])
                for d in range(max(-reach, lo - own), min(reach + 1, hi - own)):
                    offset_HQO[h, i, reach + d] += row[own + d]


@njit(**FAST)
def count_copies(
    first_N: Any, own_N: Any, start_N: Any, stop_N: Any, order_M: Any, group_start_N: Any, group_stop_N: Any
) -> Any:
    """(N, 2): of each row, how many visible keys are earlier copies of its token, and how many follow such a copy."""
    out = np.zeros((first_N.shape[0], 2), dtype=np.int64)
    for i in range(first_N.shape[0]):
        group = order_M[group_start_N[i] : group_stop_N[i]]
        begin, stop = np.searchsorted(group, first_N[i]), np.searchsorted(group, own_N[i])
        for place in range(begin, stop):
            j = group[place]
            if start_N[i] <= j < stop_N[i]:
                out[i, 0] += 1
            if start_N[i] <= j + 1 < stop_N[i]:
                out[i, 1] += 1
    return out
