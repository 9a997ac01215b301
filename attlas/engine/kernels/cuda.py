"""The CUDA kernel, in Triton: output, log-sum-exp and row statistics in one pass over the keys.

An online softmax in the manner of FlashAttention (Dao 2023, arXiv 2307.08691). A statistic sum_j a_j f(j) is an
accumulator of p_j f(j) beside the one of p_j, rescaled with it whenever the running maximum rises; sum a^2 is rescaled
twice. Memory: what is returned. q . k, and all sums, are float32 whatever the dtype of q, k and v; float32 factors are
multiplied as float32, never as TF32.

Histogram and head Gram matrix need every row's log-sum-exp beforehand and are not computed here.

Suffixes: H query heads, G kv heads, N query rows, M keys, Q and K those of one tile, D features, V value features,
S statistics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from attlas.engine.kernels.measure import Attended, RowStatistics
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.row_statistics import STATISTICS, Slot

__all__ = ["attend", "supports"]

MOST_FEATURES = 256


def supports(problem: Problem, v_GMV: torch.Tensor) -> bool:
    """Whether the kernel takes these sizes: up to 256 features."""
    return problem.features <= MOST_FEATURES and v_GMV.shape[2] <= MOST_FEATURES


def attend(problem: Problem, v_GMV: torch.Tensor, names: tuple[str, ...] = ()) -> Attended:
    """A layer's output (N, H, V) in the values' dtype, log-sum-exp and the row statistics `names` (H, N), float32.

    names: statistics that have a slot. Tiles outside every interval of a row block are never loaded.
    """
    q_HND, k_GMD, rule, facts = problem.q_HND, problem.k_GMD, problem.rule, problem.tokens
    start_N, stop_N = problem.start_N, problem.stop_N
    heads, rows, features = q_HND.shape
    groups, _, value_features = v_GMV.shape
    device = q_HND.device
    height, width = _tile(max(features, value_features))
    out_NHV = v_GMV.new_empty(rows, heads, value_features)
    lse_HN = torch.empty(heads, rows, dtype=torch.float32, device=device)
    found_SHN = torch.empty(len(Slot) if names else 0, heads, rows, dtype=torch.float32, device=device)
    previous_M = np.concatenate([[-1], facts.ids_M[:-1]])  # the id before each key, for induction

    def on_device(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)).to(device)

    bias = rule.bias
    table_HR = _float(None if bias is None else bias.table_HR, heads, device)
    sink_H = _float(None if rule.sink_H is None else rule.sink_H[:, None], heads, device)
    _attend_kernel[(triton.cdiv(rows, height), heads)](
        q_HND, k_GMD, v_GMV, out_NHV, lse_HN, found_SHN,
        on_device(start_N), on_device(stop_N), on_device(facts.first_N), on_device(facts.own_or_none_N),
        on_device(facts.ids_N), on_device(facts.ids_M), on_device(previous_M), on_device(facts.special_M),
        table_HR, sink_H,
        rule.scaling, 1.0 if rule.softcap is None else rule.softcap, 0 if bias is None else bias.first_offset,
        rows, features, value_features, heads // groups,
        *q_HND.stride(), *k_GMD.stride(), *v_GMV.stride(), *out_NHV.stride(), heads * rows, table_HR.shape[1],
        HAS_SOFTCAP=rule.softcap is not None, HAS_BIAS=bias is not None, HAS_SINK=rule.sink_H is not None,
        STATISTICS=bool(names), SAME_AXIS=facts.own_N is not None, WIDEN=bool(triton.knobs.runtime.interpret),
        HEIGHT=height, WIDTH=width,
        FEATURES=max(16, triton.next_power_of_2(features)), VALUES=max(16, triton.next_power_of_2(value_features)),
        num_warps=4 if max(features, value_features) <= 128 else 8, num_stages=2,
    )  # fmt: skip
    statistics = {}
    for name in names:
        slot = STATISTICS[name].slot
        assert slot is not None, f"{name} has no slot: the reference computes it"
        statistics[name] = found_SHN[slot]
    return Attended(out_NHV=out_NHV, rows=RowStatistics(lse_HN=lse_HN, statistics=statistics))


def _tile(features: int) -> tuple[int, int]:
    """Query rows and keys of a tile that fits a multiprocessor's registers and shared memory."""
    return (64, 64) if features <= 128 else (64, 32)


def _float(values: NDArray[np.float32] | None, heads: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(heads, 1, device=device) if values is None else torch.from_numpy(values.copy()).to(device)


@triton.jit
def _attend_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, found_ptr,
    start_ptr, stop_ptr, first_ptr, own_ptr, ids_ptr,
    key_ids_ptr, previous_ids_ptr, special_ptr, table_ptr, sink_ptr,
    scaling, softcap, first_offset,
    rows, features, value_features, group,
    q_h, q_n, q_d, k_g, k_m, k_d, v_g, v_m, v_v, out_n, out_h, out_v, found_s, table_r,
    HAS_SOFTCAP: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SINK: tl.constexpr,
    STATISTICS: tl.constexpr, SAME_AXIS: tl.constexpr, WIDEN: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    row_Q = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    real_Q = row_Q < rows
    place_Q = row_Q.to(tl.int64)
    d, c = tl.arange(0, FEATURES), tl.arange(0, VALUES)
    q = tl.load(
        q_ptr + head * q_h + place_Q[:, None] * q_n + d[None, :] * q_d,
        mask=real_Q[:, None] & (d[None, :] < features), other=0.0,
    )  # fmt: skip
    if WIDEN:  # Triton's interpreter multiplies bfloat16 as if it were integers; as float32 the products are the same
        q = q.to(tl.float32)
    start_Q = tl.load(start_ptr + row_Q, mask=real_Q, other=2147483647)
    stop_Q = tl.load(stop_ptr + row_Q, mask=real_Q, other=0)
    first_Q = tl.load(first_ptr + row_Q, mask=real_Q, other=0)
    own_Q = tl.load(own_ptr + row_Q, mask=real_Q, other=0)
    id_Q = tl.load(ids_ptr + row_Q, mask=real_Q, other=-2)
    low, high = tl.min(start_Q, 0), tl.max(stop_Q, 0)

    top = tl.full([HEIGHT], -1.0e30, tl.float32)
    total = tl.zeros([HEIGHT], tl.float32)
    out = tl.zeros([HEIGHT, VALUES], tl.float32)
    score_sum = tl.zeros([HEIGHT], tl.float32)
    squared = tl.zeros([HEIGHT], tl.float32)
    distance = tl.zeros([HEIGHT], tl.float32)
    on_first = tl.zeros([HEIGHT], tl.float32)
    on_self = tl.zeros([HEIGHT], tl.float32)
    on_previous = tl.zeros([HEIGHT], tl.float32)
    on_special = tl.zeros([HEIGHT], tl.float32)
    on_copies = tl.zeros([HEIGHT], tl.float32)
    on_induced = tl.zeros([HEIGHT], tl.float32)
    argmax = tl.zeros([HEIGHT], tl.int32)
    kv = head // group

    for begin in range(low, high, WIDTH):
        key_K = begin + tl.arange(0, WIDTH)
        there_K = key_K < high
        key64_K = key_K.to(tl.int64)
        k = tl.load(
            k_ptr + kv * k_g + key64_K[None, :] * k_m + d[:, None] * k_d,
            mask=there_K[None, :] & (d[:, None] < features), other=0.0,
        )  # fmt: skip
        if WIDEN:
            k = k.to(tl.float32)
        s = tl.dot(q, k, input_precision="ieee") * scaling
        if HAS_SOFTCAP:
            x = tl.exp(-2.0 * tl.abs(s / softcap))  # tanh by exp, which every version of Triton has
            s = tl.where(s < 0, -1.0, 1.0) * softcap * (1.0 - x) / (1.0 + x)
        if HAS_BIAS:
            place = key_K[None, :] - own_Q[:, None] - first_offset
            place = tl.minimum(tl.maximum(place, 0), table_r - 1)
            s += tl.load(table_ptr + head * table_r + place)
        seen = (key_K[None, :] >= start_Q[:, None]) & (key_K[None, :] < stop_Q[:, None])
        s = tl.where(seen, s, -1.0e30)
        largest = tl.max(s, 1)
        if STATISTICS:
            here = tl.argmax(s, 1) + begin
            argmax = tl.where(largest > top, here.to(tl.int32), argmax)
        now = tl.maximum(top, largest)
        shrink = tl.exp(top - now)
        p = tl.where(seen, tl.exp(s - now[:, None]), 0.0)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(
            v_ptr + kv * v_g + key64_K[:, None] * v_m + c[None, :] * v_v,
            mask=there_K[:, None] & (c[None, :] < value_features), other=0.0,
        )  # fmt: skip
        if WIDEN:
            v = v.to(tl.float32)
        out = out * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        if STATISTICS:
            score_sum = score_sum * shrink + tl.sum(tl.where(seen, p * s, 0.0), 1)
            squared = squared * shrink * shrink + tl.sum(p * p, 1)
            special_K = tl.load(special_ptr + key_K, mask=there_K, other=0)
            on_special = on_special * shrink + tl.sum(tl.where(special_K[None, :] != 0, p, 0.0), 1)
            on_first = on_first * shrink + tl.sum(tl.where(key_K[None, :] == first_Q[:, None], p, 0.0), 1)
            if SAME_AXIS:
                ahead = own_Q[:, None] - key_K[None, :]
                distance = distance * shrink + tl.sum(p * tl.abs(ahead).to(tl.float32), 1)
                on_self = on_self * shrink + tl.sum(tl.where(ahead == 0, p, 0.0), 1)
                before = (ahead == 1) & (key_K[None, :] >= first_Q[:, None])
                on_previous = on_previous * shrink + tl.sum(tl.where(before, p, 0.0), 1)
                key_id = tl.load(key_ids_ptr + key_K, mask=there_K, other=-1)
                copy = (key_id[None, :] == id_Q[:, None]) & (ahead > 0)
                on_copies = on_copies * shrink + tl.sum(tl.where(copy, p, 0.0), 1)
                previous_id = tl.load(previous_ids_ptr + key_K, mask=there_K, other=-1)
                follows = (previous_id[None, :] == id_Q[:, None]) & (ahead >= 0)
                follows = follows & (key_K[None, :] > first_Q[:, None])
                on_induced = on_induced * shrink + tl.sum(tl.where(follows, p, 0.0), 1)
        top = now

    total = tl.where(real_Q, total, 1.0)  # a row beyond the last has seen nothing
    lse = top + tl.log(total)
    share = 1.0 / total
    if HAS_SINK:
        sink = tl.load(sink_ptr + head)
        both = tl.maximum(lse, sink)
        with_sink = both + tl.log(tl.exp(lse - both) + tl.exp(sink - both))
        share = share * tl.exp(lse - with_sink)
        lse = with_sink
    tl.store(
        out_ptr + place_Q[:, None] * out_n + head * out_h + c[None, :] * out_v,
        (out * share[:, None]).to(out_ptr.dtype.element_ty),
        mask=real_Q[:, None] & (c[None, :] < value_features),
    )
    tl.store(lse_ptr + head * rows + row_Q, lse, mask=real_Q)
    if STATISTICS:
        at = found_ptr + head * rows + row_Q
        tl.store(at, lse * total * share - score_sum * share, mask=real_Q)
        tl.store(at + found_s, tl.exp(top - lse), mask=real_Q)
        tl.store(at + 2 * found_s, (argmax - first_Q).to(tl.float32), mask=real_Q)
        tl.store(at + 3 * found_s, on_first * share, mask=real_Q)
        tl.store(at + 4 * found_s, on_self * share, mask=real_Q)
        tl.store(at + 5 * found_s, on_previous * share, mask=real_Q)
        tl.store(at + 6 * found_s, distance * share, mask=real_Q)
        tl.store(at + 7 * found_s, squared * share * share, mask=real_Q)
        tl.store(at + 8 * found_s, on_special * share, mask=real_Q)
        tl.store(at + 9 * found_s, on_copies * share, mask=real_Q)
        tl.store(at + 10 * found_s, on_induced * share, mask=real_Q)
        tl.store(at + 11 * found_s, 1.0 - total * share, mask=real_Q)
