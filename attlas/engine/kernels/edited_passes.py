"""The compiled passes of edited attention: whole rows of scores become edited weights, where they lie in the cache.

Suffixes: H heads and Q rows of a block, K the keys that a row sees, B bins. `in_K`: 1 at the cells that an edit is of,
0 at the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from attlas.engine.kernels import passes
from attlas.engine.kernels.passes import FAST, LOG2E, LOWEST

__all__ = ["DROP_RANDOM", "DROP_TOP", "KNOCK_OUT", "NOISE_SCORES", "NOISE_WEIGHTS", "SCALE", "TEMPERATURE", "edit_rows"]

KNOCK_OUT, SCALE, TEMPERATURE, NOISE_SCORES, NOISE_WEIGHTS, DROP_TOP, DROP_RANDOM = range(7)
NONE, REST, SCORES = range(3)
"""What becomes of the rest of a row: as it is; scaled to the row's sum; a softmax of its own."""

GOLDEN, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
"""As of `engine.edit.noise`, which defines the numbers that are drawn here."""
BINS = 4096
"""Of the leading 12 bits of a score, as an ordered integer."""
FEW = np.float32(-60.0)
"""Base-2 logarithm of a share of a row's weight below which what is left has a maximum of its own."""
STEP = np.float32(2.0**-24)
NO_SINK = np.float32(-1e30)
"""Sink logits of heads that have one are above it."""
UNKNOWN = np.float32(1e30)
"""A log-sum-exp that is not given is above it."""


def _bits(_context: Any, _value: Any) -> Any:
    """The int32 whose bits are those of a float32."""

    def generate(_inner: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


_bits_of: Any = intrinsic(_bits)


@njit(inline="always", **FAST)
def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * FIRST
    x = (x ^ (x >> np.uint64(27))) * SECOND
    return x ^ (x >> np.uint64(31))


@njit(**FAST)
def _draw(row: Any, key: Any, u_K: Any) -> None:
    """The upper 24 bits of each cell's number: whole numbers from 0."""
    for j in range(u_K.shape[0]):
        bits = _mix(row + (key + np.uint64(j)) * GOLDEN)
        u_K[j] = np.float32(np.int32(bits >> np.uint64(40)))


@njit(**FAST)
def _normal(u_K: Any) -> None:
    """Whole numbers below 2**24 -> normal ones, by the inverse error function (Giles 2012, single precision)."""
    for j in range(u_K.shape[0]):
        middle = (u_K[j] - np.float32(2.0**23)) + np.float32(0.5)  # exact, as is how far it is from its end
        x = middle * np.float32(2.0**-23)
        below = (np.float32(2.0**23) - abs(middle)) * np.float32(2.0**-23)
        product = below * (np.float32(2) - below)
        w = -_log(product)
        c = w - np.float32(2.5)
        p = np.float32(2.81022636e-08)
        p = np.float32(3.43273939e-07) + p * c
        p = np.float32(-3.5233877e-06) + p * c
        p = np.float32(-4.39150654e-06) + p * c
        p = np.float32(0.00021858087) + p * c
        p = np.float32(-0.00125372503) + p * c
        p = np.float32(-0.00417768164) + p * c
        p = np.float32(0.246640727) + p * c
        p = np.float32(1.50140941) + p * c
        d = np.sqrt(w) - np.float32(3)
        q = np.float32(-0.000200214257)
        q = np.float32(0.000100950558) + q * d
        q = np.float32(0.00134934322) + q * d
        q = np.float32(-0.00367342844) + q * d
        q = np.float32(0.00573950773) + q * d
        q = np.float32(-0.0076224613) + q * d
        q = np.float32(0.00943887047) + q * d
        q = np.float32(1.00167406) + q * d
        q = np.float32(2.83297682) + q * d
        u_K[j] = np.float32(1.4142135623730951) * x * (p if w < np.float32(5) else q)


@njit(inline="always", **FAST)
def _log(x: Any) -> Any:
    """The natural logarithm of a normal number above 0, within 2e-7 (Cephes)."""
    bits = _bits_of(x) - np.int32(0x3F3504F3)  # of the square root of a half
    exponent = np.float32(bits >> np.int32(23))
    f = passes.float_of_bits((bits & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)) - np.float32(1)
    p = np.float32(7.0376836292e-2)
    p = p * f - np.float32(1.1514610310e-1)
    p = p * f + np.float32(1.1676998740e-1)
    p = p * f - np.float32(1.2420140846e-1)
    p = p * f + np.float32(1.4249322787e-1)
    p = p * f - np.float32(1.6668057665e-1)
    p = p * f + np.float32(2.0000714765e-1)
    p = p * f - np.float32(2.4999993993e-1)
    p = p * f + np.float32(3.3333331174e-1)
    return f - np.float32(0.5) * f * f + f * f * f * p + exponent * np.float32(0.6931471805599453)


@njit(**FAST)
def _largest(t_K: Any) -> Any:
    largest = np.float32(-3.4e38)
    for j in range(t_K.shape[0]):
        largest = passes.larger(largest, t_K[j])
    return largest


@njit(**FAST)
def _lse(t_K: Any, sink2: Any) -> Any:
    """Base-2 log-sum-exp of a row, the sink logit included."""
    top = passes.larger(_largest(t_K), sink2)
    total = _sum_of(t_K, top)
    if sink2 > NO_SINK:
        total += passes.exp2(passes.larger(sink2 - top, LOWEST))
    return top + np.float32(np.log2(total))


@njit(**FAST)
def _largest_left(t_K: Any, in_K: Any) -> Any:
    largest = np.float32(-3.0e38)
    for j in range(t_K.shape[0]):
        largest = passes.larger(largest, t_K[j] - np.float32(3.0e38) * in_K[j])
    return largest


@njit(**FAST)
def _weigh(t_K: Any, base: Any) -> Any:
    """Logarithms -> weights, relative to a logarithm; their sum."""
    total = np.float32(0)
    for j in range(t_K.shape[0]):
        a = passes.exp2(passes.larger(t_K[j] - base, LOWEST))
        t_K[j] = a
        total += a
    return total


@njit(**FAST)
def _weigh_left(t_K: Any, in_K: Any, base: Any) -> Any:
    """The same, 0 at the cells of the edit."""
    total = np.float32(0)
    for j in range(t_K.shape[0]):
        a = passes.exp2(passes.smaller(passes.larger(t_K[j] - base, LOWEST), np.float32(1))) * (np.float32(1) - in_K[j])
        t_K[j] = a
        total += a
    return total


@njit(**FAST)
def _sum_of(t_K: Any, base: Any) -> Any:
    total = np.float32(0)
    for j in range(t_K.shape[0]):
        total += passes.exp2(passes.larger(t_K[j] - base, LOWEST))
    return total


@njit(**FAST)
def _times(a_K: Any, factor: Any) -> None:
    for j in range(a_K.shape[0]):
        a_K[j] *= factor


@njit(**FAST)
def _take_out(t_K: Any, in_K: Any, lse2: Any, sink2: Any, rest: Any) -> None:
    """Logarithms -> weights without the cells of the edit; nothing is subtracted, however much is taken out."""
    if rest == NONE:
        _weigh_left(t_K, in_K, lse2)
        return
    left = _largest_left(t_K, in_K)
    if left < np.float32(-2.0e38):
        t_K[:] = 0
        return
    has_sink = sink2 > NO_SINK
    total = np.float32(1)
    if has_sink and rest == REST:
        total = _sum_of(t_K, lse2)
    base = lse2 if left - lse2 > FEW else left
    if rest == SCORES and has_sink and sink2 > base:
        base = sink2 if sink2 > lse2 else lse2
    kept = _weigh_left(t_K, in_K, base)
    if rest == SCORES:
        if has_sink:
            kept += passes.exp2(passes.larger(sink2 - base, LOWEST))
        total = np.float32(1)
    _times(t_K, total / kept if kept > 0 else np.float32(0))


@njit(**FAST)
def _softmax(t_K: Any, largest: Any, sink2: Any) -> None:
    """Logarithms -> weights of their own softmax, with a sink logit or none."""
    top = passes.larger(largest, sink2)
    total = _weigh(t_K, top) + passes.exp2(passes.larger(sink2 - top, LOWEST))
    if sink2 < NO_SINK:
        total -= passes.exp2(LOWEST)
    _times(t_K, np.float32(1) / total)


@njit(**FAST)
def _kth(order_K: Any, in_K: Any, rank: int, count_B: Any, some_K: Any) -> Any:
    """Of the cells of the edit, the number of this rank, 0 the smallest."""
    count_B[:] = 0
    for j in range(order_K.shape[0]):
        if in_K[j] > 0:
            count_B[(order_K[j] >> 20) + 2048] += 1
    bin_, before = 0, 0
    while before + count_B[bin_] <= rank:
        before += count_B[bin_]
        bin_ += 1
    some = 0
    for j in range(order_K.shape[0]):
        some_K[some] = order_K[j]
        some += ((order_K[j] >> 20) + 2048 == bin_) & (in_K[j] > 0)
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
def _top(t_K: Any, in_K: Any, count: int, seen: int, top_K: Any, order_K: Any, count_B: Any, some_K: Any) -> None:
    """1 at the `count` largest of the `seen` cells of the edit, of equal ones the earlier; 0 elsewhere."""
    if count == 0:
        top_K[:] = 0
        return
    if count >= seen:
        top_K[:] = in_K
        return
    for j in range(t_K.shape[0]):
        bits = _bits_of(t_K[j])
        order_K[j] = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    edge = _kth(order_K, in_K, seen - count, count_B, some_K)
    above = 0
    for j in range(t_K.shape[0]):
        over = np.float32(order_K[j] > edge) * in_K[j]
        top_K[j] = over
        above += int(over)
    for j in range(t_K.shape[0]):
        if above == count:
            break
        if order_K[j] == edge and in_K[j] > 0:
            top_K[j] = 1
            above += 1


@njit(**FAST)
def _in_order(u_K: Any, in_K: Any, amount_K: Any, goal: Any, gone_K: Any, mass_B: Any, some_K: Any) -> None:
    """How much goes of each cell of the edit, in the order of its random number, until `goal` is gone."""
    bins = mass_B.shape[0]
    to_bin = np.float32(bins) * STEP
    mass_B[:] = 0
    for j in range(u_K.shape[0]):
        mass_B[int(u_K[j] * to_bin)] += amount_K[j] * in_K[j]
    left, edge = goal, 0
    while edge < bins and mass_B[edge] <= left:
        left -= mass_B[edge]
        edge += 1
    some = 0
    for j in range(u_K.shape[0]):
        own = int(u_K[j] * to_bin)
        gone_K[j] = amount_K[j] * in_K[j] if own < edge else np.float32(0)
        if own == edge and in_K[j] > 0:
            at = some
            while at > 0 and u_K[some_K[at - 1]] > u_K[j]:
                some_K[at] = some_K[at - 1]
                at -= 1
            some_K[at] = j
            some += 1
    for at in range(some):
        j = some_K[at]
        gone = min(left, np.float64(amount_K[j]))
        gone_K[j] = np.float32(gone)
        left -= gone


@njit(**FAST)
def edit_rows(
    t_HQK: Any, action: int, value: Any, rest: int, by_count: Any, top: int, share: Any, lse2_HQ: Any, sink2_H: Any,
    lo_Q: Any, hi_Q: Any, low: int, table_HR: Any, bias_Q: Any, row_HQ: Any, first: int, key_in_M: Any, offset_O: Any,
    any_offset: Any, query_Q: Any,
) -> None:  # fmt: skip
    """Scores of whole rows, in base-2 logarithms, -> edited weights in place, zero outside the intervals.

    action, value: what is done and by how much. rest: of NONE, REST, SCORES. top, share: how many weights are dropped;
    by_count: as many random ones, not as much weight. lse2_HQ, sink2_H: log-sum-exp (UNKNOWN: found out) and sink
    logits in base 2. lo_Q, hi_Q: intervals, in columns; low: the first column's key.
    table_HR, bias_Q: as of `passes.measure`. row_HQ: the generator's state of each row. first: the document's first
    key. key_in_M: 1 at the keys of the edit, (M,). offset_O: key less query, the edit is of, unless any_offset.
    query_Q: each row's place in the document.
    """
    heads, rows, keys = t_HQK.shape
    mask_K, more_K, u_K = np.empty(keys, np.float32), np.empty(keys, np.float32), np.empty(keys, np.float32)
    order_K, some_K, count_B = np.empty(keys, np.int32), np.empty(keys + 1, np.int32), np.empty(BINS, np.int64)
    mass_B = np.empty(min(4096, max(1, keys // 4)), np.float64)
    for i in range(rows):
        lo, hi = lo_Q[i], hi_Q[i]
        in_K = mask_K[lo:hi]
        if any_offset:
            in_K[:] = key_in_M[low + lo : low + hi]
        else:
            in_K[:] = 0
            for o in range(offset_O.shape[0]):
                j = query_Q[i] + offset_O[o] + first - low - lo
                if 0 <= j < hi - lo:
                    in_K[j] = key_in_M[low + lo + j]
        seen = 0
        for j in range(hi - lo):
            seen += in_K[j] > 0
        for h in range(heads):
            row = t_HQK[h, i]
            row[:lo] = 0
            row[hi:] = 0
            t_K = row[lo:hi]
            if table_HR.shape[1]:
                passes.add_bias(t_K, table_HR[h], bias_Q[i] + lo, np.float32(1 / LOG2E))
            lse2, sink2, u = lse2_HQ[h, i], sink2_H[h], u_K[lo:hi]
            if action == TEMPERATURE:
                _times(t_K, np.float32(1) / value)
                _softmax(t_K, _largest(t_K), sink2 / value if sink2 > NO_SINK else sink2)
                continue
            if lse2 >= UNKNOWN and seen > 0 and action in (KNOCK_OUT, DROP_TOP) and rest != NONE:
                lse2 = _largest(t_K) if sink2 < NO_SINK else _lse(t_K, sink2)
            elif lse2 >= UNKNOWN and (seen == 0 or action != NOISE_SCORES):
                lse2 = _lse(t_K, sink2)
            if seen == 0:
                _weigh(t_K, lse2)
                continue
            if action == KNOCK_OUT:
                _take_out(t_K, in_K, lse2, sink2, rest)
                continue
            if action == SCALE:
                _weigh(t_K, lse2)
                for j in range(hi - lo):
                    t_K[j] *= np.float32(1) + (value - np.float32(1)) * in_K[j]
                continue
            if action in (NOISE_SCORES, NOISE_WEIGHTS, DROP_RANDOM):
                _draw(row_HQ[h, i], np.uint64(low + lo - first), u)
            if action == NOISE_SCORES:
                _normal(u)
                largest = np.float32(-3.4e38)
                for j in range(hi - lo):
                    t_K[j] += u[j] * in_K[j] * value * LOG2E
                    largest = passes.larger(largest, t_K[j])
                _softmax(t_K, largest, sink2)
                continue
            if action == NOISE_WEIGHTS:
                _normal(u)
                before, after = _weigh(t_K, lse2), np.float32(0)
                for j in range(hi - lo):
                    a = passes.larger(t_K[j] + u[j] * in_K[j] * value, np.float32(0))
                    t_K[j] = a
                    after += a
                _times(t_K, before / after if after > 0 else np.float32(0))
                continue
            count = min(top, seen) if top else int(np.floor(np.float64(seen) * share + 1e-9))
            top_K, some = more_K[lo:hi], some_K[: hi - lo + 1]
            _top(t_K, in_K, count, seen, top_K, order_K[: hi - lo], count_B, some)
            if action == DROP_TOP:
                _take_out(t_K, top_K, lse2, sink2, rest)
                continue
            if by_count:
                top_K[:] = 1
                gone = order_K[: hi - lo].view(np.float32)
                _in_order(u, in_K, top_K, np.float64(count), gone, mass_B, some)
                for j in range(hi - lo):
                    top_K[j] = gone[j]
                _take_out(t_K, top_K, lse2, sink2, rest)
                continue
            before, goal = _weigh(t_K, lse2), np.float64(0)
            for j in range(hi - lo):
                goal += np.float64(t_K[j] * top_K[j])
            _in_order(u, in_K, t_K, goal, top_K, mass_B, some)
            after = np.float32(0)
            for j in range(hi - lo):
                a = passes.larger(t_K[j] - top_K[j], np.float32(0))
                t_K[j] = a
                after += a
            if rest == REST:
                _times(t_K, before / after if after > 0 else np.float32(0))
