"""The compiled passes of the CPU kernel, over one tile of scores that lies in the L2 cache.

Each inner loop is a small function of its own, without a branch, so that LLVM vectorises it; compiled code is cached on
disk. No function here allocates, and all release the GIL: tiles are spread over threads outside.

Suffixes: H heads, Q rows and K keys of the tile, N all rows, B histogram bins. `lo_Q`, `hi_Q`: each row's key interval,
in columns of the tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = [
    "DISTANCE",
    "ENTROPY",
    "FAST",
    "LANES",
    "LOG2E",
    "LOWEST",
    "MAXIMUM",
    "SQUARED",
    "SUMS",
    "TOTAL",
    "accumulate",
    "add_bias",
    "count_bins",
    "exp2",
    "float_of_bits",
    "larger",
    "measure",
    "smaller",
    "special",
    "weigh_row",
]

LOG2E = np.float32(1.4426950408889634)
LOWEST = np.float32(-126.0)
BIN_COUNT, LAST_BIN = 128, np.float32(127)
LANES = 4

SUMS = 5
ENTROPY, SQUARED, DISTANCE, TOTAL, MAXIMUM = range(SUMS)
"""Places on the last axis of the accumulators."""

FAST: dict[str, Any] = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}
"""fastmath assumes finite numbers: q, k and log-sum-exp are checked before they come here."""


def _reinterpret(_context: Any, _value: Any) -> Any:
    """The float32 whose bits are those of an int32."""

    def generate(_inner: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


float_of_bits: Any = intrinsic(_reinterpret)


def _extremum(name: str) -> Any:
    """Numba's own `max` of floats is a branch, which keeps a whole loop from vectorising; LLVM's is one instruction."""

    def typed(_context: Any, _one: Any, _other: Any) -> Any:
        def generate(_inner: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            real = ir.FloatType()
            function = builder.module.declare_intrinsic(name, [real], ir.FunctionType(real, [real, real]))
            return builder.call(function, arguments, fastmath=("fast",))

        return types.float32(types.float32, types.float32), generate

    return intrinsic(typed)


larger = _extremum("llvm.maxnum")
smaller = _extremum("llvm.minnum")


@njit(inline="always", **FAST)
def exp2(t: Any) -> Any:
    """2**t for -126 <= t <= 1, within 1e-7 relative: exponent by its bits, fraction by a minimax polynomial."""
    whole = np.floor(t)
    f = t - whole
    p = np.float32(2.1877505e-4)
    p = p * f + np.float32(1.2387824e-3)
    p = p * f + np.float32(9.6845806e-3)
    p = p * f + np.float32(5.5480428e-2)
    p = p * f + np.float32(2.4023050e-1)
    p = p * f + np.float32(6.9314694e-1)
    p = p * f + np.float32(1.0)
    return p * float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))


@njit(**FAST)
def weigh_row(s_K: Any, bins_K: Any, scale: Any, lse2: Any, own: Any, sums: Any) -> None:
    """Turn a row's scores into weights, in place; add up what a weight tells without its neighbours."""
    entropy, squared, distance, total = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    largest, ahead = np.float32(0), np.float32(own)
    for j in range(s_K.shape[0]):
        t = larger(s_K[j] * scale - lse2, LOWEST)
        a = exp2(t)
        s_K[j] = a
        entropy -= a * t
        squared += a * a
        distance += a * abs(ahead)
        ahead -= np.float32(1)
        total += a
        largest = larger(largest, a)
        bins_K[j] = np.uint8(smaller(larger(t * np.float32(4) + np.float32(BIN_COUNT), np.float32(0)), LAST_BIN))
    sums[ENTROPY] += entropy
    sums[SQUARED] += squared
    sums[DISTANCE] += distance
    sums[TOTAL] += total
    sums[MAXIMUM] = largest


@njit(**FAST)
def count_bins(bins_K: Any, count_LB: Any) -> None:
    """Count bins into four tables in turn, so that equal neighbours do not wait for one another."""
    full = bins_K.shape[0] // LANES * LANES
    for j in range(0, full, LANES):
        count_LB[0, bins_K[j]] += 1
        count_LB[1, bins_K[j + 1]] += 1
        count_LB[2, bins_K[j + 2]] += 1
        count_LB[3, bins_K[j + 3]] += 1
    for j in range(full, bins_K.shape[0]):
        count_LB[0, bins_K[j]] += 1


@njit(**FAST)
def add_bias(s_K: Any, table_R: Any, first: Any, scale: Any) -> None:
    """Add to a row the bias of its offsets, `first` being the table's place of the first column; ends are repeated."""
    last = table_R.shape[0] - 1
    for j in range(s_K.shape[0]):
        s_K[j] += table_R[min(max(first + j, 0), last)] / scale


@njit(**FAST)
def measure(
    s_HQK: Any,
    scale: Any,
    lse2_HQ: Any,
    lo_Q: Any,
    hi_Q: Any,
    own_Q: Any,
    table_HR: Any,
    bias_Q: Any,
    sums_HQS: Any,
    largest_HQ: Any,
    argmax_HQ: Any,
    key0: Any,
    count_HLB: Any,
    bins_K: Any,
    counts: Any,
) -> None:
    """Scores -> weights in place, zero outside the intervals; sums, maxima and histogram counts are added to.

    scale: from a score to the base-2 logarithm of an unnormalised weight; lse2_HQ: log-sum-exp in base 2.
    own_Q: column of the query's own position, which may lie outside the tile. table_HR, bias_Q: position bias and each
    row's place in it of the tile's first column; a table without columns stands for no bias.
    """
    heads, rows = s_HQK.shape[:2]
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
                add_bias(seen, table_HR[h], bias_Q[i] + lo, np.float32(scale / LOG2E))
            bins = bins_K[lo:hi]
            weigh_row(seen, bins, scale, lse2_HQ[h, i], own_Q[i] - lo, sums_HQS[h, i])
            if sums_HQS[h, i, MAXIMUM] > largest_HQ[h, i]:
                largest_HQ[h, i] = sums_HQS[h, i, MAXIMUM]
                argmax_HQ[h, i] = key0 + lo + np.argmax(seen)
            if counts:
                count_bins(bins, count_HLB[h])


@njit(**FAST)
def special(
    a_HQK: Any,
    key0: Any,
    first_Q: Any,
    own_Q: Any,
    special_S: Any,
    order_M: Any,
    group_start_Q: Any,
    group_stop_Q: Any,
    out_HQX: Any,
) -> None:
    """Add the weights on chosen keys: first, self, previous, special, earlier copies, and what follows them.

    first_Q, own_Q: keys, in the kernel's own count (own -1: none). special_S: special keys. order_M: keys ordered by
    token id and place; group_start_Q, group_stop_Q: the run of the query's own token in it.
    """
    heads, rows, keys = a_HQK.shape
    key1 = key0 + keys
    begin_special = np.searchsorted(special_S, key0)
    stop_special = np.searchsorted(special_S, key1)
    for i in range(rows):
        first, own = first_Q[i], own_Q[i]
        if key0 <= first < key1:
            for h in range(heads):
                out_HQX[h, i, 0] += a_HQK[h, i, first - key0]
        for place in range(begin_special, stop_special):
            for h in range(heads):
                out_HQX[h, i, 3] += a_HQK[h, i, special_S[place] - key0]
        if own < 0:
            continue
        if key0 <= own < key1:
            for h in range(heads):
                out_HQX[h, i, 1] += a_HQK[h, i, own - key0]
        if own > first and key0 <= own - 1 < key1:
            for h in range(heads):
                out_HQX[h, i, 2] += a_HQK[h, i, own - 1 - key0]
        group = order_M[group_start_Q[i] : group_stop_Q[i]]
        begin = np.searchsorted(group, max(first, key0 - 1))
        stop = np.searchsorted(group, min(own, key1))
        for h in range(heads):
            duplicate = induction = np.float32(0.0)
            for place in range(begin, stop):
                j = group[place] - key0
                if j >= 0:
                    duplicate += a_HQK[h, i, j]
                if j + 1 < keys:
                    induction += a_HQK[h, i, j + 1]
            out_HQX[h, i, 4] += duplicate
            out_HQX[h, i, 5] += induction


@njit(**FAST)
def _largest(s_K: Any) -> Any:
    largest = s_K[0]
    for j in range(s_K.shape[0]):
        largest = larger(largest, s_K[j])
    return largest


@njit(**FAST)
def _exponentials(s_K: Any, scale: Any, top: Any) -> Any:
    total = np.float32(0.0)
    for j in range(s_K.shape[0]):
        p = exp2(larger(s_K[j] * scale - top, LOWEST))
        s_K[j] = p
        total += p
    return total


@njit(**FAST)
def accumulate(
    s_HQK: Any,
    scale: Any,
    lo_Q: Any,
    hi_Q: Any,
    table_HR: Any,
    bias_Q: Any,
    top_HQ: Any,
    total_HQ: Any,
    shrink_HQ: Any,
) -> None:
    """One step of an online softmax: scores -> 2**(score - running maximum) in place, zero outside the intervals.

    top_HQ, total_HQ: running maximum and sum, base 2. shrink_HQ: what the step leaves of the output so far.
    """
    heads, rows = s_HQK.shape[:2]
    for h in range(heads):
        for i in range(rows):
            lo, hi = lo_Q[i], hi_Q[i]
            row = s_HQK[h, i]
            shrink_HQ[h, i] = 1
            if lo >= hi:
                row[:] = 0
                continue
            row[:lo] = 0
            row[hi:] = 0
            seen = row[lo:hi]
            if table_HR.shape[1]:
                add_bias(seen, table_HR[h], bias_Q[i] + lo, np.float32(scale / LOG2E))
            top = _largest(seen) * scale
            if top > top_HQ[h, i]:
                shrink_HQ[h, i] = 2.0 ** (top_HQ[h, i] - top)
                total_HQ[h, i] *= shrink_HQ[h, i]
                top_HQ[h, i] = top
            total_HQ[h, i] += _exponentials(seen, scale, top_HQ[h, i])
