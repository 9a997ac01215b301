"""The compiled passes of the operator: a tile of scores becomes weights, or the mean of the heads' weights.

Suffixes: H heads, Q rows and K keys of the tile. `lo_Q`, `hi_Q`: each row's key interval, in columns of the tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from attlas.engine.kernels import passes
from attlas.engine.kernels.passes import FAST, LOG2E, LOWEST

__all__ = ["add_heads", "discard_smallest", "weigh"]


@njit(**FAST)
def _weigh_row(s_K: Any, scale: Any, lse2: Any) -> None:
    for j in range(s_K.shape[0]):
        s_K[j] = passes.exp2(passes.larger(s_K[j] * scale - lse2, LOWEST))


@njit(**FAST)
def _add_row(s_K: Any, scale: Any, lse2: Any, out_K: Any) -> None:
    for j in range(s_K.shape[0]):
        out_K[j] += passes.exp2(passes.larger(s_K[j] * scale - lse2, LOWEST))


@njit(**FAST)
def weigh(s_HQK: Any, scale: Any, lse2_HQ: Any, lo_Q: Any, hi_Q: Any, table_HR: Any, bias_Q: Any) -> None:
    """Scores -> weights in place, zero outside the intervals. Arguments as in `passes.measure`."""
    for h in range(s_HQK.shape[0]):
        for i in range(s_HQK.shape[1]):
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
            _weigh_row(seen, scale, lse2_HQ[h, i])


@njit(**FAST)
def add_heads(
    s_HQK: Any, scale: Any, lse2_HQ: Any, lo_Q: Any, hi_Q: Any, table_HR: Any, bias_Q: Any, out_QK: Any
) -> None:
    """The sum over heads of the weights into out_QK, zero outside the intervals; no weight of one head is stored."""
    for i in range(s_HQK.shape[1]):
        lo, hi = lo_Q[i], hi_Q[i]
        out = out_QK[i]
        out[:] = 0
        if lo >= hi:
            continue
        for h in range(s_HQK.shape[0]):
            seen = s_HQK[h, i, lo:hi]
            if table_HR.shape[1]:
                passes.add_bias(seen, table_HR[h], bias_Q[i] + lo, np.float32(scale / LOG2E))
            _add_row(seen, scale, lse2_HQ[h, i], out[lo:hi])


BINS = 2048
"""Of the leading 11 bits of a weight: its exponent and three bits of its mantissa."""


@njit(**FAST)
def _smallest(value_K: Any, rank: int, count_B: Any, some_K: Any) -> Any:
    """The value of this rank, 0 the smallest, of values that are not negative: their bits have the same order."""
    bits_K = value_K.view(np.int32)
    count_B[:] = 0
    for j in range(bits_K.shape[0]):
        count_B[(bits_K[j] >> 20) & (BINS - 1)] += 1
    bin_, before = 0, 0
    while before + count_B[bin_] <= rank:
        before += count_B[bin_]
        bin_ += 1
    some = 0
    for j in range(bits_K.shape[0]):  # those of the bin that holds it, without a branch
        some_K[some] = value_K[j]
        some += ((bits_K[j] >> 20) & (BINS - 1)) == bin_
    low, high, wanted = 0, some - 1, rank - before
    while low < high:  # Hoare's selection
        pivot, i, j = some_K[(low + high) // 2], low, high
        while i <= j:
            while some_K[i] < pivot:
                i += 1
            while pivot < some_K[j]:
                j -= 1
            if i <= j:
                some_K[i], some_K[j] = some_K[j], some_K[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return some_K[wanted]


@njit(**FAST)
def discard_smallest(a_QK: Any, lo_Q: Any, hi_Q: Any, share: float, threshold: float) -> None:
    """`Discard.of_rows` of float32 weights, in place; no row holds NaN."""
    count_B = np.empty(BINS, dtype=np.int64)
    some_K = np.empty(a_QK.shape[1] + 1, dtype=np.float32)
    for i in range(a_QK.shape[0]):
        seen_K = a_QK[i, lo_Q[i] : hi_Q[i]]
        if not seen_K.shape[0]:
            continue
        largest, before = np.float32(0), np.float64(0)
        for j in range(seen_K.shape[0]):
            largest = max(largest, seen_K[j])
            before += seen_K[j]
        rank = int(share * seen_K.shape[0])
        edge = _smallest(seen_K, rank, count_B, some_K) if rank else np.float32(0)
        edge = min(max(edge, np.float32(threshold)), largest)
        left = np.float64(0)
        for j in range(seen_K.shape[0]):
            value = seen_K[j] if seen_K[j] >= edge else np.float32(0)
            seen_K[j] = value
            left += value
        if left > 0:
            factor = np.float32(before / left)
            for j in range(seen_K.shape[0]):
                seen_K[j] *= factor
