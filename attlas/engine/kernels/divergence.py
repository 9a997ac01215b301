"""Jensen-Shannon distance between many distributions over the same keys: one compiled loop a pair.

Suffixes: P distributions (heads of layers), K keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from attlas.engine.kernels.passes import FAST

__all__ = ["shannon_distances"]

LOG2E = np.float32(1.4426950408889634)
MANTISSA, ONE = np.int32(0x007FFFFF), np.int32(0x3F800000)
SMALL = np.float32(0.04)
TINY = np.float32(1e-30)


def _reinterpret(given: Any, wanted: Any, llvm: Any) -> Any:
    def typed(_context: Any, _value: Any) -> Any:
        def generate(_inner: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], llvm)

        return wanted(given), generate

    return intrinsic(typed)


_bits_of: Any = _reinterpret(types.float32, types.int32, ir.IntType(32))
_float_of: Any = _reinterpret(types.int32, types.float32, ir.FloatType())


@njit(inline="always", **FAST)
def _log2(x: Any) -> Any:
    """log2 of a normal float32, within 1e-7: exponent by its bits, mantissa by the series of atanh."""
    bits = _bits_of(x)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(127))
    m = _float_of((bits & MANTISSA) | ONE)
    high = m > np.float32(1.41421356)
    m = m * np.float32(0.5) if high else m
    exponent = exponent + np.float32(1) if high else exponent
    u = (m - np.float32(1)) / (m + np.float32(1))
    w = u * u
    p = np.float32(1 / 9)
    p = p * w + np.float32(1 / 7)
    p = p * w + np.float32(1 / 5)
    p = p * w + np.float32(1 / 3)
    p = p * w + np.float32(1)
    return exponent + np.float32(2) * LOG2E * u * p


@njit(**FAST)
def _divergence(p_K: Any, q_K: Any) -> Any:
    """Jensen-Shannon divergence in bits, as a sum of terms that are never negative, so that none cancels another."""
    total = np.float32(0)
    for j in range(p_K.shape[0]):
        both = p_K[j] + q_K[j]
        u = (p_K[j] - q_K[j]) / (both + TINY)
        w = u * u
        # (1 + u) ln(1 + u) + (1 - u) ln(1 - u), by its series where u is small
        near = w * (1 + w * (np.float32(1 / 6) + w * (np.float32(1 / 15) + w * (np.float32(1 / 28) + w / 45))))
        up, down = np.float32(1) + u + TINY, np.float32(1) - u + TINY
        far = up * _log2(up) + down * _log2(down)
        total += both * (near * LOG2E if w < SMALL else far)
    return total / np.float32(4)


@njit(**FAST)
def _all_pairs(a_PK: Any, out_PP: Any) -> None:
    for p in range(a_PK.shape[0]):
        for q in range(p):
            found = np.sqrt(_divergence(a_PK[p], a_PK[q]))
            out_PP[p, q] = found
            out_PP[q, p] = found


def shannon_distances(a_PK: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, P) Jensen-Shannon distances, the root of the divergence in bits, in [0, 1]; Endres and Schindelin 2003.

    a_PK: weights, not all 0 in any row; each row is divided by its sum.
    """
    a_PK = np.ascontiguousarray(a_PK / a_PK.sum(axis=1, keepdims=True), dtype=np.float32)
    out_PP = np.zeros((len(a_PK), len(a_PK)), dtype=np.float32)
    _all_pairs(a_PK, out_PP)
    return out_PP
