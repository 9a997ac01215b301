"""The CPU kernel: q . k by BLAS into a tile that stays in the L2 cache, then one compiled pass over it.

Row statistics need the rows' log-sum-exp beforehand: a tile of weights is then final at once, keys may be cut as well
as rows, and nothing is ever rescaled. `attend` finds it together with the layer's output, by an online softmax (Milakov
and Gimelshein 2018; Dao et al. 2022), for the score rules that torch's fused attention does not compute.

Row blocks are spread over as many threads as torch has; each thread multiplies and measures its own tiles.

Suffixes: H query heads, G kv heads (H a multiple of G), N query rows, M keys, Q and K those of one tile, D features,
V value features, B histogram bins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import passes
from attlas.engine.kernels.reference import Attended, RowStatistics, TokenFacts
from attlas.engine.kernels.row_statistics import HISTOGRAM_BINS

__all__ = [
    "LN2",
    "TILE_BYTES",
    "Problem",
    "TilePlan",
    "Tokens",
    "add_gram",
    "attend",
    "plan_tiles",
    "row_statistics",
    "spread",
]

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]

TILE_BYTES = 5 * 2**18
"""Bytes of one float32 score tile over all heads: about a core's L2 cache; taller tiles make BLAS faster."""

ROWS = 128
GRAM_CELLS = 8192
LN2 = 0.6931471805599453


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """rows, keys: the most of each in a tile. blocks: ranges of rows, one task each."""

    rows: int
    keys: int
    blocks: tuple[tuple[int, int], ...]


def plan_tiles(heads: int, rows: int, tile_bytes: int) -> TilePlan:
    """Cut `rows` rows of `heads` heads so that a tile of all heads takes at most `tile_bytes`, or is 8 x 64."""
    height = ROWS
    while height > 8 and heads * height * 256 * 4 > tile_bytes:
        height //= 2
    width = max(64, tile_bytes // (heads * height * 4) // 64 * 64)
    return TilePlan(
        rows=height, keys=min(width, 2048), blocks=tuple((b, min(b + height, rows)) for b in range(0, rows, height))
    )


def row_statistics(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    rule: ScoreRule,
    *,
    lse_HN: torch.Tensor,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
    names: tuple[str, ...],
    histogram: bool = False,
    head_gram: bool = False,
) -> RowStatistics:
    """Row statistics, float32, of factors in any float dtype and their rows' log-sum-exp (H, N), float32.

    start_N, stop_N: each row's key interval, not empty, in indices into the M keys. Rows may be any of the document's.
    Memory: TILE_BYTES a thread, a float32 copy of keys that are not float32, and what is returned.
    """
    heads, rows, _ = q_HND.shape
    problem = Problem.of(q_HND, k_GMD, rule, start_N, stop_N, facts.own_N)
    lse2_HN = np.ascontiguousarray(lse_HN.numpy() / np.float32(LN2), dtype=np.float32)
    tokens = Tokens.of(facts, rows)
    sums_HNS = np.zeros((heads, rows, passes.SUMS))
    largest_HN = np.full((heads, rows), -1, dtype=np.float32)
    argmax_HN = np.zeros((heads, rows), dtype=np.int64)
    picked_HNX = np.zeros((heads, rows, 6), dtype=np.float32)
    count_HB = np.zeros((heads, HISTOGRAM_BINS), dtype=np.int64)
    gram_HH = torch.zeros(heads, heads, dtype=torch.float64)
    lock = threading.Lock()

    def block(begin: int, end: int) -> None:
        count_HLB = np.zeros((heads, passes.LANES, HISTOGRAM_BINS), dtype=np.int32)
        gram = torch.zeros(heads, heads, dtype=torch.float64)
        at = slice(begin, end)
        # numpy copies of the accumulators, contiguous for the compiled pass
        sums, largest, argmax = sums_HNS[:, at].copy(), largest_HN[:, at].copy(), argmax_HN[:, at].copy()
        picked, lse2 = picked_HNX[:, at].copy(), lse2_HN[:, at].copy()
        for tile in problem.tiles(begin, end):
            passes.measure(
                tile.s_HQK, problem.scale, lse2, tile.lo_Q, tile.hi_Q, tile.own_Q, problem.table_HR, tile.bias_Q,
                sums, largest, argmax, tile.key, count_HLB, tile.bins_K, histogram,
            )  # fmt: skip
            passes.special(
                tile.s_HQK, tile.key, tokens.first_N[at], tokens.own_N[at], tokens.special_S, tokens.order_M,
                tokens.group_start_N[at], tokens.group_stop_N[at], picked,
            )  # fmt: skip
            if head_gram:
                add_gram(torch.from_numpy(tile.s_HQK), gram)
        sums_HNS[:, at], largest_HN[:, at], argmax_HN[:, at], picked_HNX[:, at] = sums, largest, argmax, picked
        with lock:
            count_HB[:] += count_HLB.sum(axis=1)
            gram_HH.add_(gram)

    spread(block, problem.plan.blocks, start_N, stop_N)
    found: dict[str, NDArray[Any]] = {
        "entropy": sums_HNS[:, :, passes.ENTROPY] * LN2,
        "max_weight": largest_HN,
        "argmax_key": argmax_HN - facts.first_N,
        "first_weight": picked_HNX[:, :, 0],
        "self_weight": picked_HNX[:, :, 1],
        "previous_weight": picked_HNX[:, :, 2],
        "mean_distance": sums_HNS[:, :, passes.DISTANCE],
        "squared_sum": sums_HNS[:, :, passes.SQUARED],
        "special_weight": picked_HNX[:, :, 3],
        "duplicate_weight": picked_HNX[:, :, 4],
        "induction_weight": picked_HNX[:, :, 5],
    }
    if rule.sink_H is not None:
        # 1 - sum(a) without the rounding of the sum: the sink logit is the one term of the row that is left out
        sink_H = np.asarray(rule.sink_H, dtype=np.float64)
        found["sink_residual"] = np.exp(sink_H[:, None] - lse_HN.numpy().astype(np.float64))
    return RowStatistics(
        lse_HN=lse_HN,
        statistics={name: torch.from_numpy(found[name].astype(np.float32)) for name in names},
        histogram_HB=torch.from_numpy(count_HB) if histogram else None,
        head_gram_HH=gram_HH if head_gram else None,
    )


def attend(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    v_GMV: torch.Tensor,
    rule: ScoreRule,
    *,
    start_N: Indices,
    stop_N: Indices,
    own_N: Indices | None,
) -> Attended:
    """Output (N, H, V) in the values' dtype and log-sum-exp (H, N), float32, for every score rule.

    own_N: index of the key at each query's own position, which a position bias needs.
    """
    heads, rows, _ = q_HND.shape
    groups = v_GMV.shape[0]
    problem = Problem.of(q_HND, k_GMD, rule, start_N, stop_N, own_N)
    v_GMV32 = v_GMV.float()
    out_NHV = v_GMV.new_empty(rows, heads, v_GMV.shape[2])
    lse_HN = torch.empty(heads, rows)

    def block(begin: int, end: int) -> None:
        count = end - begin
        top = np.full((heads, count), -np.inf, dtype=np.float32)
        total, shrink = np.zeros((heads, count), dtype=np.float32), np.ones((heads, count), dtype=np.float32)
        out_HQV = torch.zeros(heads, count, v_GMV.shape[2])
        for tile in problem.tiles(begin, end):
            passes.accumulate(
                tile.s_HQK, problem.scale, tile.lo_Q, tile.hi_Q, problem.table_HR, tile.bias_Q, top, total, shrink
            )
            p_GRK = torch.from_numpy(tile.s_HQK).view(groups, -1, tile.s_HQK.shape[2])
            now_HQV = torch.bmm(p_GRK, v_GMV32[:, tile.key : tile.key + tile.s_HQK.shape[2]])
            out_HQV.mul_(torch.from_numpy(shrink)[:, :, None]).add_(now_HQV.view_as(out_HQV))
        lse_HQ = (torch.from_numpy(top).double() + torch.from_numpy(total).double().log2()) * LN2
        share_HQ = 1 / torch.from_numpy(total)
        if rule.sink_H is not None:
            with_sink_HQ = torch.logaddexp(lse_HQ, torch.from_numpy(rule.sink_H).double()[:, None])
            share_HQ, lse_HQ = share_HQ * torch.exp(lse_HQ - with_sink_HQ).float(), with_sink_HQ
        out_NHV[begin:end] = (out_HQV * share_HQ[:, :, None]).transpose(0, 1)
        lse_HN[:, begin:end] = lse_HQ

    spread(block, problem.plan.blocks, start_N, stop_N)
    return Attended(out_NHV=out_NHV, rows=RowStatistics(lse_HN=lse_HN))


def add_gram(a_HQK: torch.Tensor, gram_HH: torch.Tensor) -> None:
    """Add a tile's sums over cells of A_h A_g; no float32 sum runs over more than GRAM_CELLS cells (or one row)."""
    heads, rows, keys = a_HQK.shape
    step = max(1, GRAM_CELLS // keys)
    for row in range(0, rows, step):
        flat = a_HQK[:, row : row + step].reshape(heads, -1)
        gram_HH += (flat @ flat.T).double()


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """Scores of one tile before scaling and bias, and where its rows' intervals and own keys lie in its columns."""

    s_HQK: Floats
    key: int
    lo_Q: Indices
    hi_Q: Indices
    own_Q: Indices
    bias_Q: Indices
    bins_K: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One call, ready to be cut into tiles. scale: from what the tile holds to base-2 logarithms."""

    q_HND: torch.Tensor
    k_GMD: torch.Tensor
    rule: ScoreRule
    scale: np.float32
    start_N: Indices
    stop_N: Indices
    own_N: Indices
    table_HR: Floats
    plan: TilePlan

    @classmethod
    def of(
        cls,
        q_HND: torch.Tensor,
        k_GMD: torch.Tensor,
        rule: ScoreRule,
        start_N: Indices,
        stop_N: Indices,
        own_N: Indices | None,
    ) -> Problem:
        heads, rows, _ = q_HND.shape
        return cls(
            q_HND=q_HND.float(),
            k_GMD=k_GMD.float(),
            rule=rule,
            scale=np.float32((1.0 if rule.softcap is not None else rule.scaling) / LN2),
            start_N=start_N,
            stop_N=stop_N,
            own_N=np.full(rows, -1, dtype=np.int64) if own_N is None else own_N,
            table_HR=np.zeros((heads, 0), dtype=np.float32) if rule.bias is None else rule.bias.table_HR,
            plan=plan_tiles(heads, rows, TILE_BYTES),
        )

    def tiles(self, begin: int, end: int) -> Iterator[_Tile]:
        """The tiles of one row block that hold a visible cell, one after the other in one buffer."""
        at = slice(begin, end)
        heads, count, width = self.q_HND.shape[0], end - begin, self.q_HND.shape[2]
        groups = self.k_GMD.shape[0]
        q_GRD = self.q_HND[:, at].reshape(groups, heads // groups * count, width)
        start_Q, stop_Q, own_Q = self.start_N[at], self.stop_N[at], self.own_N[at]
        low, high = int(start_Q.min()), int(stop_Q.max())
        buffer = torch.empty(heads * count * min(self.plan.keys, high - low))
        bins_K = np.empty(self.plan.keys, dtype=np.uint8)
        rule = self.rule
        for key in range(low, high, self.plan.keys):
            stop = min(key + self.plan.keys, high)
            keys = stop - key
            lo_Q, hi_Q = np.clip(start_Q - key, 0, keys), np.clip(stop_Q - key, 0, keys)
            if not (lo_Q < hi_Q).any():
                continue
            s_GRK = buffer[: heads * count * keys].view(groups, -1, keys)
            torch.bmm(q_GRD, self.k_GMD[:, key:stop].transpose(1, 2), out=s_GRK)
            if rule.softcap is not None:
                s_GRK.mul_(rule.scaling / rule.softcap).tanh_().mul_(rule.softcap)
            bias_Q = lo_Q if rule.bias is None else key - own_Q - rule.bias.first_offset
            yield _Tile(s_GRK.view(heads, count, keys).numpy(), key, lo_Q, hi_Q, own_Q - key, bias_Q, bins_K)


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Token facts as the compiled pass reads them."""

    first_N: Indices
    own_N: Indices
    special_S: Indices
    order_M: Indices
    group_start_N: Indices
    group_stop_N: Indices

    @classmethod
    def of(cls, facts: TokenFacts, rows: int) -> Tokens:
        order_M = np.argsort(facts.ids_M, kind="stable")
        sorted_M = facts.ids_M[order_M]
        return cls(
            first_N=facts.first_N,
            own_N=np.full(rows, -1, dtype=np.int64) if facts.own_N is None else facts.own_N,
            special_S=np.flatnonzero(facts.special_M),
            order_M=order_M,
            group_start_N=np.searchsorted(sorted_M, facts.ids_N, side="left"),
            group_stop_N=np.searchsorted(sorted_M, facts.ids_N, side="right"),
        )


def spread(
    task: Callable[[int, int], None], blocks: tuple[tuple[int, int], ...], start_N: Indices, stop_N: Indices
) -> None:
    """Run the row blocks on as many threads as torch has, those with the most cells first."""
    threads = torch.get_num_threads()
    cells = [int((stop_N[begin:end] - start_N[begin:end]).sum()) for begin, end in blocks]
    order = sorted(range(len(blocks)), key=lambda i: -cells[i])

    def run(i: int) -> None:
        with torch.inference_mode():  # each thread has a mode of its own
            task(*blocks[i])

    if min(threads, len(blocks)) == 1:
        for i in order:
            run(i)
        return
    for done in [_pool(threads).submit(run, i) for i in order]:
        done.result()
    torch.set_num_threads(threads)  # what a thread sets for itself is also the default of threads made later


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch itself uses one thread each; the setting is each thread's own."""

    def alone() -> None:
        torch.set_num_threads(1)

    return ThreadPoolExecutor(threads, thread_name_prefix="attlas-kernel", initializer=alone)
