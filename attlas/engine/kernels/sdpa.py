"""The SDPA kernel: a layer's output and log-sum-exp through torch's fused CPU attention, for float32 on the CPU.

It yields no row statistics. Rows are cut into pieces that the fused operation can take: keys that every row of the
piece sees, a causal triangle, and, for windows, short blocks under a small mask; pieces of one row are joined by their
log-sum-exp, as in flash attention (Dao et al. 2022).

Suffixes: H query heads, G kv heads, N query rows, M keys, Q rows of a piece, D features, V value features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels.measure import Attended, RowStatistics
from attlas.engine.kernels.problem import Problem

__all__ = ["Piece", "attend", "cut", "piece_mask", "supports"]

Indices = NDArray[np.int64]

MASKED_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows [row, row_stop) against keys [key, key_stop).

    shape: "full" (every row sees every key), "causal" (row r sees the keys up to its own place in the piece, which is
    square), or "masked" (each row's own interval, within the piece).
    """

    row: int
    row_stop: int
    key: int
    key_stop: int
    shape: str


def supports(problem: Problem, v_GMV: torch.Tensor) -> bool:
    """Whether the fused operation computes this rule, in a precision that lse may have: float32, on the CPU."""
    return (
        problem.device.type == "cpu"
        and problem.q_HND.dtype == torch.float32
        and problem.features == v_GMV.shape[2]
        and problem.rule.softcap is None
        and problem.rule.bias is None
    )


def attend(problem: Problem, v_GMV: torch.Tensor) -> Attended:
    """Output (N, H, V) and log-sum-exp (H, N), float32. `supports` must hold.

    Memory: what is returned, and MASKED_ROWS x (MASKED_ROWS + window) floats for windows.
    """
    q_HND, k_GMD, rule, start_N, stop_N = problem.q_HND, problem.k_GMD, problem.rule, problem.start_N, problem.stop_N
    heads, rows, width = q_HND.shape
    pieces = tuple(cut(start_N, stop_N))
    if len(pieces) == 1:
        out_HNV, lse_HN = _fused(q_HND, k_GMD, v_GMV, rule, pieces[0], start_N, stop_N)
        pieces = ()
    else:
        # a token's heads side by side, as the model wants them
        out_HNV = q_HND.new_empty(rows, heads, width).transpose(0, 1)
        lse_HN = q_HND.new_empty(heads, rows)
    done = 0  # rows that have a piece behind them
    for piece in pieces:
        at = slice(piece.row, piece.row_stop)
        out_HQV, lse_HQ = _fused(q_HND[:, at], k_GMD, v_GMV, rule, piece, start_N[at], stop_N[at])
        if piece.row >= done:
            out_HNV[:, at], lse_HN[:, at], done = out_HQV, lse_HQ, piece.row_stop
            continue
        joined_HQ = torch.logaddexp(lse_HN[:, at], lse_HQ)
        before_HQ, now_HQ = torch.exp(lse_HN[:, at] - joined_HQ), torch.exp(lse_HQ - joined_HQ)
        out_HNV[:, at].mul_(before_HQ[:, :, None]).add_(out_HQV * now_HQ[:, :, None])
        lse_HN[:, at] = joined_HQ
    if rule.sink_H is not None:
        with_sink_HN = torch.logaddexp(lse_HN, torch.from_numpy(rule.sink_H)[:, None])
        out_HNV.mul_(torch.exp(lse_HN - with_sink_HN)[:, :, None])
        lse_HN = with_sink_HN
    return Attended(out_NHV=out_HNV.transpose(0, 1).contiguous(), rows=RowStatistics(lse_HN=lse_HN))


def cut(start_N: Indices, stop_N: Indices) -> Iterator[Piece]:
    """Cut key intervals into pieces; every visible cell lies in exactly one."""
    rows = len(start_N)
    # a run ends where the start changes, or where the stop neither stays nor grows by one with each row
    steps = np.diff(stop_N)
    breaks = (np.diff(start_N) != 0) | ((steps != 0) & (steps != 1))
    kind_changes = np.r_[False, steps[1:] != steps[:-1]] if rows > 2 else np.zeros(max(rows - 1, 0), dtype=bool)
    edges = [0, *(np.flatnonzero(breaks | kind_changes) + 1).tolist(), rows]
    short: int | None = None
    for begin, end in pairwise(edges):
        if end - begin < 8:  # a window moves with each row: gather such rows into masked blocks
            short = begin if short is None else short
            continue
        if short is not None:
            yield from _masked(start_N, stop_N, short, begin)
            short = None
        yield from _run(int(start_N[begin]), stop_N, begin, end)
    if short is not None:
        yield from _masked(start_N, stop_N, short, rows)


def _run(start: int, stop_N: Indices, begin: int, end: int) -> Iterator[Piece]:
    """Rows of one start, whose stop either stays the same or grows by one a row."""
    first, last = int(stop_N[begin]), int(stop_N[end - 1])
    if first == last:
        yield Piece(row=begin, row_stop=end, key=start, key_stop=first, shape="full")
        return
    if first - 1 > start:
        yield Piece(row=begin, row_stop=end, key=start, key_stop=first - 1, shape="full")
    yield Piece(row=begin, row_stop=end, key=first - 1, key_stop=last, shape="causal")


def _masked(start_N: Indices, stop_N: Indices, begin: int, end: int) -> Iterator[Piece]:
    for row in range(begin, end, MASKED_ROWS):
        row_stop = min(row + MASKED_ROWS, end)
        key, key_stop = int(start_N[row:row_stop].min()), int(stop_N[row:row_stop].max())
        yield Piece(row=row, row_stop=row_stop, key=key, key_stop=key_stop, shape="masked")


def _fused(
    q_HQD: torch.Tensor,
    k_GMD: torch.Tensor,
    v_GMV: torch.Tensor,
    rule: ScoreRule,
    piece: Piece,
    start_Q: Indices,
    stop_Q: Indices,
) -> tuple[torch.Tensor, torch.Tensor]:
    keys = slice(piece.key, piece.key_stop)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_HQD[None],
        k_GMD[None, :, keys],
        v_GMV[None, :, keys],
        0.0,
        piece.shape == "causal",
        attn_mask=piece_mask(piece, start_Q, stop_Q),
        scale=rule.scaling,
    )
    return out[0], lse[0]


def piece_mask(piece: Piece, start_Q: Indices, stop_Q: Indices) -> torch.Tensor | None:
    """What is added to the scores of a masked piece, (1, 1, Q, K), of the key intervals of its rows."""
    if piece.shape != "masked":
        return None
    places = np.arange(piece.key, piece.key_stop)
    unseen_QK = (places < start_Q[:, None]) | (places >= stop_Q[:, None])
    mask = torch.zeros(unseen_QK.shape, dtype=torch.float32).masked_fill_(torch.from_numpy(unseen_QK), -torch.inf)
    return mask[None, None]
