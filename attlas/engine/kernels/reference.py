"""The reference kernel: exact attention in plain torch, tile by tile, on any device and in any float type.

Suffixes: H query heads, G kv heads (H a multiple of G), N query rows, M keys, Q and K the rows and keys of one tile,
D features, V value features, B histogram bins. Key intervals are half-open, in indices into the M keys.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import PositionBias, ScoreRule
from attlas.engine.kernels.histogram import HISTOGRAM_BINS
from attlas.engine.kernels.measure import Attended, Measure, RowStatistics
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.row_statistics import STATISTICS
from attlas.engine.kernels.row_tile import RowTile

__all__ = ["attend", "plan_rows", "row_statistics", "scores", "weights"]

Indices = NDArray[np.int64]

MOST_ROWS = 256
"""Rows of a tile, at most."""


def weights(
    problem: Problem,
    lse_HN: torch.Tensor,
    *,
    key_M: Indices | None = None,
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Exact weights a_HNM = exp(score - lse) of every row on every key: 0 outside the key interval.

    lse_HN: the rows' log-sum-exp. key_M: the place of each key, where the problem has only some keys, in any order; its
    intervals and own keys are then places. out: (H, N, M) of `dtype` to put the weights into.
    """
    rule, start_N, stop_N, own_N = problem.rule, problem.start_N, problem.stop_N, problem.tokens.own_N
    key_M = np.arange(problem.keys) if key_M is None else key_M
    offset_NM = None if own_N is None else _offsets(rule, own_N, key_M, problem.device)
    s_HNM = _scores(problem.q_HND, problem.k_GMD, rule, offset_NM, dtype)
    s_HNM = s_HNM.sub_(lse_HN.to(dtype)[:, :, None])
    # most keys of a block are seen by all of its rows: only the others need a mask
    some = np.flatnonzero((key_M < start_N.max()) | (key_M >= stop_N.min()))
    if some.size:
        part = slice(int(some[0]), int(some[-1]) + 1)
        visible_NM = _visible(start_N, stop_N, key_M[part], problem.device)
        s_HNM[:, :, part].masked_fill_(~visible_NM, -torch.inf)
    return torch.exp(s_HNM, out=s_HNM if out is None else out)


def scores(
    problem: Problem, *, key_M: Indices | None = None, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores s_HNM, in nats, -inf outside the key interval, and which cells are inside (N, M). key_M: as `weights`."""
    key_M = np.arange(problem.keys) if key_M is None else key_M
    own_N = problem.tokens.own_N
    offset_NM = None if own_N is None else _offsets(problem.rule, own_N, key_M, problem.device)
    s_HNM = _scores(problem.q_HND, problem.k_GMD, problem.rule, offset_NM, dtype)
    visible_NM = _visible(problem.start_N, problem.stop_N, key_M, problem.device)
    return s_HNM.masked_fill_(~visible_NM, -torch.inf), visible_NM


def row_statistics(problem: Problem, measure: Measure, *, dtype: torch.dtype = torch.float32) -> RowStatistics:
    """Log-sum-exp and row statistics from the factors alone; see `attend`."""
    return _run(problem, None, measure, dtype)[1]


def attend(problem: Problem, v_GMV: torch.Tensor, measure: Measure, *, dtype: torch.dtype = torch.float32) -> Attended:
    """A layer's output, log-sum-exp and row statistics, computed in `dtype` whatever the dtype of q, k and v.

    Memory: about six tiles of `measure.tile_bytes` (or of one row, if that is more) and what is returned.
    """
    out_NHV, rows = _run(problem, v_GMV, measure, dtype)
    assert out_NHV is not None
    return Attended(out_NHV=out_NHV, rows=rows)


def plan_rows(
    start_N: Indices, stop_N: Indices, cell_bytes: int, tile_bytes: int
) -> tuple[tuple[int, int, int, int], ...]:
    """Cut rows into blocks (begin, end, low, high): rows [begin, end) see keys in [low, high), and a tile of them takes
    at most tile_bytes where cell_bytes are those of a cell of all heads; a block has at least one row."""
    blocks, begin, rows = [], 0, len(start_N)
    while begin < rows:
        low_N = np.minimum.accumulate(start_N[begin : begin + MOST_ROWS])
        high_N = np.maximum.accumulate(stop_N[begin : begin + MOST_ROWS])
        size_N = (high_N - low_N) * np.arange(1, len(low_N) + 1) * cell_bytes
        count = max(1, int(np.searchsorted(size_N, tile_bytes, side="right")))
        blocks.append((begin, begin + count, int(low_N[count - 1]), int(high_N[count - 1])))
        begin += count
    return tuple(blocks)


def _run(
    problem: Problem, v_GMV: torch.Tensor | None, measure: Measure, dtype: torch.dtype
) -> tuple[torch.Tensor | None, RowStatistics]:
    heads, rows, device, rule = problem.heads, problem.rows, problem.device, problem.rule
    lse_HN = torch.empty(heads, rows, dtype=dtype, device=device)
    statistics = {name: torch.empty(heads, rows, dtype=dtype, device=device) for name in measure.names}
    histogram_HB = torch.zeros(heads, HISTOGRAM_BINS, dtype=torch.int64, device=device) if measure.histogram else None
    gram_HH = torch.zeros(heads, heads, dtype=torch.float64, device=device) if measure.head_gram else None
    out_NHV = None if v_GMV is None else v_GMV.new_empty(rows, heads, v_GMV.shape[2])

    for begin, end, low, high in plan_rows(problem.start_N, problem.stop_N, heads * dtype.itemsize, measure.tile_bytes):
        at = slice(begin, end)
        start_Q, stop_Q, tokens = problem.start_N[at], problem.stop_N[at], problem.tokens.of_rows(at)
        keys_K = np.arange(low, high)
        offset_QK = None if tokens.own_N is None else _offsets(rule, tokens.own_N, keys_K, device)
        s_HQK = _scores(problem.q_HND[:, at], problem.k_GMD[:, low:high], rule, offset_QK, dtype)
        visible_QK = _visible(start_Q, stop_Q, keys_K, device)
        s_HQK = s_HQK.masked_fill_(~visible_QK, -torch.inf)
        lse_HQ = torch.logsumexp(s_HQK, dim=2)
        if rule.sink_H is not None:
            lse_HQ = torch.logaddexp(lse_HQ, torch.as_tensor(rule.sink_H, dtype=dtype, device=device)[:, None])
        lse_HN[:, at] = lse_HQ
        a_HQK = torch.exp(s_HQK - lse_HQ[:, :, None])
        if out_NHV is not None and v_GMV is not None:
            out_HQV = _per_group(a_HQK, v_GMV[:, low:high].to(dtype))
            out_NHV[at] = out_HQV.transpose(0, 1).to(out_NHV.dtype)
        if statistics:
            tile = RowTile(
                a_HQK=a_HQK, s_HQK=s_HQK, lse_HQ=lse_HQ, key_K=torch.arange(low, high, device=device),
                first_Q=torch.as_tensor(tokens.first_N, device=device), tokens=tokens,
            )  # fmt: skip
            for name, value_HN in statistics.items():
                value_HN[:, at] = STATISTICS[name].reference(tile)
        if histogram_HB is not None:
            _count(a_HQK, visible_QK, histogram_HB)
        if gram_HH is not None:
            flat = a_HQK.reshape(heads, -1)
            gram_HH += (flat @ flat.T).double()
    return out_NHV, RowStatistics(lse_HN=lse_HN, statistics=statistics, histogram_HB=histogram_HB, head_gram_HH=gram_HH)


def _scores(
    q_HQD: torch.Tensor, k_GKD: torch.Tensor, rule: ScoreRule, offset_QK: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    s_HQK = _per_group(q_HQD.to(dtype), k_GKD.to(dtype).transpose(1, 2)).mul_(rule.scaling)
    if rule.softcap is not None:
        s_HQK = torch.tanh(s_HQK / rule.softcap) * rule.softcap
    if rule.bias is not None:
        assert offset_QK is not None, "a position bias needs queries and keys on one token axis"
        table_HR = torch.as_tensor(rule.bias.table_HR, dtype=dtype, device=q_HQD.device)
        s_HQK = s_HQK + table_HR[:, offset_QK]
    return s_HQK


def _per_group(x_HQY: torch.Tensor, y_GYZ: torch.Tensor) -> torch.Tensor:
    """Matrix product head by head, H/G query heads to one kv head, without repeating the kv heads."""
    heads, rows, inner = x_HQY.shape
    groups, _, width = y_GYZ.shape
    return torch.bmm(x_HQY.reshape(groups, heads // groups * rows, inner), y_GYZ).view(heads, rows, width)


def _offsets(rule: ScoreRule, own_Q: Indices, key_K: Indices, device: torch.device) -> torch.Tensor | None:
    """Places in the bias table of each (query, key), or None where the rule has no bias."""
    bias: PositionBias | None = rule.bias
    if bias is None:
        return None
    offset_QK = key_K[None, :] - own_Q[:, None]
    place_QK = np.clip(offset_QK - bias.first_offset, 0, bias.table_HR.shape[1] - 1)
    return torch.from_numpy(place_QK).to(device)


def _visible(start_Q: Indices, stop_Q: Indices, keys_K: Indices, device: torch.device) -> torch.Tensor:
    keys = torch.as_tensor(keys_K, device=device)
    start = torch.as_tensor(start_Q, device=device)[:, None]
    stop = torch.as_tensor(stop_Q, device=device)[:, None]
    return (keys >= start) & (keys < stop)


def _count(a_HQK: torch.Tensor, visible_QK: torch.Tensor, histogram_HB: torch.Tensor) -> None:
    """Add the visible weights of a tile to the logarithmic histogram: all heads in one go, since a device waits for
    each count. What is masked is counted in a bin of its own, which is dropped."""
    heads = len(a_HQK)
    place_HQK = torch.floor(torch.log2(a_HQK) * 4) + HISTOGRAM_BINS
    place_HQK = place_HQK.clamp_(0, HISTOGRAM_BINS - 1).long().masked_fill_(~visible_QK, HISTOGRAM_BINS)
    place_HQK += torch.arange(heads, device=a_HQK.device)[:, None, None] * (HISTOGRAM_BINS + 1)
    counted = torch.bincount(place_HQK.flatten(), minlength=heads * (HISTOGRAM_BINS + 1))
    histogram_HB += counted.view(heads, -1)[:, :HISTOGRAM_BINS]
