"""The reference kernel: exact attention in plain torch, tile by tile, on any device and in any float type.

Suffixes: H query heads, G kv heads (H a multiple of G), N query rows, M keys, Q and K the rows and keys of one tile,
D features, V value features, B histogram bins. Key intervals are half-open, in indices into the M keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import PositionBias, ScoreRule
from attlas.engine.kernels.row_statistics import HISTOGRAM_BINS

__all__ = ["Attended", "RowStatistics", "TokenFacts", "attend", "row_statistics", "weights"]

Indices = NDArray[np.int64]

TILE_BYTES = 32 * 2**20
"""Size of one score tile over all heads, unless told otherwise; about six such tiles are alive at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenFacts:
    """What the statistics must know of the tokens.

    first_N: index of the document's first key. own_N: index of the key at the query's own position; None for
    cross-attention. ids_N, ids_M: token ids of queries and keys. special_M: which keys are special tokens.
    """

    first_N: Indices
    own_N: Indices | None
    ids_N: Indices
    ids_M: Indices
    special_M: NDArray[np.bool_]

    def of_rows(self, rows: Indices) -> TokenFacts:
        """The facts of some of the rows."""
        own_N = None if self.own_N is None else self.own_N[rows]
        return replace(self, first_N=self.first_N[rows], own_N=own_N, ids_N=self.ids_N[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowStatistics:
    """lse_HN: log-sum-exp with the sink logit, in nats. statistics: name -> (H, N). Both in the kernel's dtype.

    histogram_HB: int64 counts of the weights by `histogram_edges`; head_gram_HH: float64,
    sum over cells of A_h A_g. Both None unless asked for.
    """

    lse_HN: torch.Tensor
    statistics: dict[str, torch.Tensor] = field(default_factory=dict)
    histogram_HB: torch.Tensor | None = None
    head_gram_HH: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attended:
    """The layer's output out_NHV in the dtype of the values, and what was measured of its rows."""

    out_NHV: torch.Tensor
    rows: RowStatistics


def weights(
    q_HQD: torch.Tensor,
    k_GKD: torch.Tensor,
    lse_HQ: torch.Tensor,
    rule: ScoreRule,
    *,
    start_Q: Indices,
    stop_Q: Indices,
    query_positions_Q: Indices,
    key_positions_K: Indices,
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Exact weights of any rows and any keys: a_HQK = exp(score - lse) inside the key interval, 0 outside.

    q_HQD, k_GKD: factors of the rows and keys asked for, in any float dtype. lse_HQ: their rows' log-sum-exp.
    start_Q, stop_Q, query_positions_Q, key_positions_K: all counted from the document's first token. out: (H, Q, K) of
    `dtype` to put the weights into.
    """
    s_HQK = _scores(q_HQD, k_GKD, rule, _offsets(rule, query_positions_Q, key_positions_K, q_HQD.device), dtype)
    s_HQK = s_HQK.sub_(lse_HQ.to(dtype)[:, :, None])
    # most keys of a block are seen by all of its rows: only the others need a mask
    some = np.flatnonzero((key_positions_K < start_Q.max()) | (key_positions_K >= stop_Q.min()))
    if some.size:
        part = slice(int(some[0]), int(some[-1]) + 1)
        visible_QK = _visible(start_Q, stop_Q, key_positions_K[part], q_HQD.device)
        s_HQK[:, :, part].masked_fill_(~visible_QK, -torch.inf)
    return torch.exp(s_HQK, out=s_HQK if out is None else out)


def row_statistics(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    rule: ScoreRule,
    *,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
    names: tuple[str, ...],
    histogram: bool = False,
    head_gram: bool = False,
    dtype: torch.dtype = torch.float32,
    tile_bytes: int = TILE_BYTES,
) -> RowStatistics:
    """Log-sum-exp and row statistics from the factors alone; see `attend` for the parameters."""
    return _run(
        q_HND, k_GMD, None, rule, start_N, stop_N, facts, names, histogram=histogram, head_gram=head_gram, dtype=dtype,
        tile_bytes=tile_bytes,
    )[1]  # fmt: skip


def attend(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    v_GMV: torch.Tensor,
    rule: ScoreRule,
    *,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
    names: tuple[str, ...] = (),
    histogram: bool = False,
    head_gram: bool = False,
    dtype: torch.dtype = torch.float32,
    tile_bytes: int = TILE_BYTES,
) -> Attended:
    """A layer's output, log-sum-exp and row statistics, computed in `dtype` whatever the dtype of q, k and v.

    start_N, stop_N: each row's key interval, not empty, in indices into the M keys. names: which row statistics.
    Memory: about six tiles of `tile_bytes` (or of one row, if that is more) and what is returned.
    """
    out_NHV, rows = _run(
        q_HND, k_GMD, v_GMV, rule, start_N, stop_N, facts, names, histogram=histogram, head_gram=head_gram, dtype=dtype,
        tile_bytes=tile_bytes,
    )  # fmt: skip
    assert out_NHV is not None
    return Attended(out_NHV=out_NHV, rows=rows)


def _run(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    v_GMV: torch.Tensor | None,
    rule: ScoreRule,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
    names: tuple[str, ...],
    *,
    histogram: bool,
    head_gram: bool,
    dtype: torch.dtype,
    tile_bytes: int,
) -> tuple[torch.Tensor | None, RowStatistics]:
    heads, rows, _ = q_HND.shape
    device = q_HND.device
    lse_HN = torch.empty(heads, rows, dtype=dtype, device=device)
    statistics = {name: torch.empty(heads, rows, dtype=dtype, device=device) for name in names}
    histogram_HB = torch.zeros(heads, HISTOGRAM_BINS, dtype=torch.int64, device=device) if histogram else None
    gram_HH = torch.zeros(heads, heads, dtype=torch.float64, device=device) if head_gram else None
    out_NHV = None if v_GMV is None else v_GMV.new_empty(rows, heads, v_GMV.shape[2])

    for begin, end in _row_blocks(start_N, stop_N, heads * dtype.itemsize, tile_bytes):
        low, high = int(start_N[begin:end].min()), int(stop_N[begin:end].max())
        keys_K = np.arange(low, high)
        own_Q = None if facts.own_N is None else facts.own_N[begin:end]
        offset_QK = None if own_Q is None else _offsets(rule, own_Q, keys_K, device)
        s_HQK = _scores(q_HND[:, begin:end], k_GMD[:, low:high], rule, offset_QK, dtype)
        visible_QK = _visible(start_N[begin:end], stop_N[begin:end], keys_K, device)
        s_HQK = s_HQK.masked_fill_(~visible_QK, -torch.inf)
        lse_HQ = torch.logsumexp(s_HQK, dim=2)
        if rule.sink_H is not None:
            lse_HQ = torch.logaddexp(lse_HQ, torch.as_tensor(rule.sink_H, dtype=dtype, device=device)[:, None])
        lse_HN[:, begin:end] = lse_HQ
        a_HQK = torch.exp(s_HQK - lse_HQ[:, :, None])
        if out_NHV is not None and v_GMV is not None:
            out_HQV = _per_group(a_HQK, v_GMV[:, low:high].to(dtype))
            out_NHV[begin:end] = out_HQV.transpose(0, 1).to(out_NHV.dtype)
        if names:
            tile = _Tile(a_HQK, s_HQK, lse_HQ, low, begin, end, facts)
            for name in names:
                statistics[name][:, begin:end] = tile.statistic(name)
        if histogram_HB is not None:
            _count(a_HQK, visible_QK, histogram_HB)
        if gram_HH is not None:
            flat = a_HQK.reshape(heads, -1)
            gram_HH += (flat @ flat.T).double()
    return out_NHV, RowStatistics(lse_HN=lse_HN, statistics=statistics, histogram_HB=histogram_HB, head_gram_HH=gram_HH)


def _row_blocks(start_N: Indices, stop_N: Indices, cell_bytes: int, tile_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut the rows so that rows x spanned keys, of all heads, fit tile_bytes; a block has at least one row."""
    begin, rows = 0, len(start_N)
    while begin < rows:
        end = min(rows, begin + 256)
        while end - begin > 1:
            span = int(stop_N[begin:end].max() - start_N[begin:end].min())
            if (end - begin) * span * cell_bytes <= tile_bytes:
                break
            end = begin + (end - begin + 1) // 2
        yield begin, end
        begin = end


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


def _offsets(
    rule: ScoreRule, query_positions_Q: Indices, key_positions_K: Indices, device: torch.device
) -> torch.Tensor | None:
    """Places in the bias table of each (query, key), or None where the rule has no bias."""
    bias: PositionBias | None = rule.bias
    if bias is None:
        return None
    offset_QK = key_positions_K[None, :] - query_positions_Q[:, None]
    place_QK = np.clip(offset_QK - bias.first_offset, 0, bias.table_HR.shape[1] - 1)
    return torch.from_numpy(place_QK).to(device)


def _visible(start_Q: Indices, stop_Q: Indices, keys_K: Indices, device: torch.device) -> torch.Tensor:
    keys = torch.as_tensor(keys_K, device=device)
    start = torch.as_tensor(start_Q, device=device)[:, None]
    stop = torch.as_tensor(stop_Q, device=device)[:, None]
    return (keys >= start) & (keys < stop)


def _count(a_HQK: torch.Tensor, visible_QK: torch.Tensor, histogram_HB: torch.Tensor) -> None:
    """Add the visible weights of a tile to the logarithmic histogram."""
    for head, a_QK in enumerate(a_HQK):
        place = torch.floor(torch.log2(a_QK[visible_QK]) * 4) + HISTOGRAM_BINS
        counted = torch.bincount(place.clamp_(0, HISTOGRAM_BINS - 1).long(), minlength=HISTOGRAM_BINS)
        histogram_HB[head] += counted


class _Tile:
    """One tile of weights, and each statistic of its rows."""

    def __init__(
        self,
        a_HQK: torch.Tensor,
        s_HQK: torch.Tensor,
        lse_HQ: torch.Tensor,
        low: int,
        begin: int,
        end: int,
        facts: TokenFacts,
    ) -> None:
        self.a_HQK, self.s_HQK, self.lse_HQ = a_HQK, s_HQK, lse_HQ
        self.low, self.facts, self.rows = low, facts, slice(begin, end)
        device = a_HQK.device
        self.key_K = torch.arange(low, low + a_HQK.shape[2], device=device)
        self.first_Q = torch.as_tensor(facts.first_N[self.rows], device=device)
        self.own_Q = None if facts.own_N is None else torch.as_tensor(facts.own_N[self.rows], device=device)

    def statistic(self, name: str) -> torch.Tensor:
        value: torch.Tensor = getattr(self, f"_{name}")()
        return value

    def _entropy(self) -> torch.Tensor:
        # -a ln a = a (lse - s); the weight 0 of an unseen key has s = -inf, and counts nothing
        return torch.where(self.a_HQK > 0, self.a_HQK * (self.lse_HQ[:, :, None] - self.s_HQK), 0.0).sum(2)

    def _max_weight(self) -> torch.Tensor:
        return self.a_HQK.amax(2)

    def _argmax_key(self) -> torch.Tensor:
        return (self.a_HQK.argmax(2) + self.low - self.first_Q).to(self.a_HQK.dtype)

    def _first_weight(self) -> torch.Tensor:
        return self._at(self.first_Q)

    def _self_weight(self) -> torch.Tensor:
        return self._at(self._own())

    def _previous_weight(self) -> torch.Tensor:
        own_Q = self._own()
        return torch.where(own_Q > self.first_Q, self._at(own_Q - 1), 0.0)

    def _mean_distance(self) -> torch.Tensor:
        distance_QK = (self._own()[:, None] - self.key_K).abs().to(self.a_HQK.dtype)
        return (self.a_HQK * distance_QK).sum(2)

    def _squared_sum(self) -> torch.Tensor:
        return self.a_HQK.square().sum(2)

    def _special_weight(self) -> torch.Tensor:
        special_K = torch.as_tensor(self.facts.special_M[self._keys()], device=self.a_HQK.device)
        return (self.a_HQK * special_K).sum(2)

    def _duplicate_weight(self) -> torch.Tensor:
        same_QK = self._ids_N()[:, None] == self._ids_M(self.key_K)
        return (self.a_HQK * (same_QK & (self.key_K < self._own()[:, None]))).sum(2)

    def _induction_weight(self) -> torch.Tensor:
        same_QK = self._ids_N()[:, None] == self._ids_M((self.key_K - 1).clamp_(min=0))
        earlier_QK = (self.key_K > self.first_Q[:, None]) & (self.key_K <= self._own()[:, None])
        return (self.a_HQK * (same_QK & earlier_QK)).sum(2)

    def _sink_residual(self) -> torch.Tensor:
        return 1 - self.a_HQK.sum(2)

    def _at(self, key_Q: torch.Tensor) -> torch.Tensor:
        """Each row's weight on one key; 0 where the key lies outside the tile, and so outside the key interval."""
        place_Q = key_Q - self.low
        inside_Q = (place_Q >= 0) & (place_Q < self.a_HQK.shape[2])
        picked_HQ = self.a_HQK.gather(
            2, place_Q.clamp(0, self.a_HQK.shape[2] - 1).expand(self.a_HQK.shape[0], -1)[:, :, None]
        )[:, :, 0]
        return torch.where(inside_Q, picked_HQ, 0.0)

    def _own(self) -> torch.Tensor:
        assert self.own_Q is not None, "this statistic needs queries and keys on one token axis"
        return self.own_Q

    def _keys(self) -> slice:
        return slice(self.low, self.low + self.a_HQK.shape[2])

    def _ids_N(self) -> torch.Tensor:
        return torch.as_tensor(self.facts.ids_N[self.rows], device=self.a_HQK.device)

    def _ids_M(self, keys: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.facts.ids_M, device=self.a_HQK.device)[keys]
