"""The compiled passes of the operator: a tile of scores becomes weights, or the mean of the heads' weights.

Suffixes: H heads, Q rows and K keys of the tile. `lo_Q`, `hi_Q`: each row's key interval, in columns of the tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from attlas.engine.kernels import passes
from attlas.engine.kernels.passes import FAST, LOG2E, LOWEST

__all__ = ["add_heads", "weigh"]


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
