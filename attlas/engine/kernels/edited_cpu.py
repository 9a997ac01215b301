"""Attention whose weights are edited, on the CPU: whole rows of scores by BLAS into a block that stays in the L2 cache,
one compiled pass that makes them edited weights, and one product.

Suffixes: H query heads, G kv heads, R query heads that share one, N query rows, M keys, Q and K those of one block,
V value features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import edited_passes
from attlas.engine.kernels.cpu_tiles import LN2, SMALL_CELLS, TILE_BYTES, Tiles
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.reference import plan_rows
from attlas.engine.kernels.threads import spread

__all__ = ["Change", "attend_edited"]

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]

NO_SINK = np.float32(-3e38)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What is done to the weights of some rows of one document.

    action, value, rest, top, share, by_count: as of `edited_passes.edit_rows`. key_in_M: float32, 1 at its keys.
    offsets: key less query; None for any. query_N: the rows' places in the document; first: its first key.
    row_HN: the generator's state of each row, uint64; empty where nothing is drawn.
    """

    action: int
    value: float
    rest: int
    key_in_M: Floats
    offsets: Indices | None
    query_N: Indices
    first: int
    row_HN: NDArray[np.uint64]
    top: int = 0
    share: float = 0.0
    by_count: bool = False


def attend_edited(
    problem: Problem, lse_HN: torch.Tensor | None, v_GMV: torch.Tensor, change: Change, *, tile_bytes: int = TILE_BYTES
) -> torch.Tensor:
    """Output (N, H, V), float32, of edited weights. lse_HN: the rows' log-sum-exp, sink logits included; None where it
    is not known, and is found out where it is needed.

    v_GMV: values of the problem's kv heads. Memory: a block a thread, at most `tile_bytes` or one row of the heads that
    share keys, a float32 copy of factors that are not, and what is returned.
    """
    tiles, rule, groups, heads = Tiles.of(problem, tile_bytes), problem.rule, problem.groups, problem.heads
    each, v_GMV = heads // groups, v_GMV.float()
    if lse_HN is None:
        lse2_HN = np.full((heads, problem.rows), edited_passes.UNKNOWN)
    else:
        lse2_HN = np.ascontiguousarray(lse_HN.float().numpy() / np.float32(LN2), dtype=np.float32)
    q_HND = problem.q_HND.float() if rule.softcap is not None else problem.q_HND.float() * float(tiles.scale)
    sink2_H = np.full(heads, NO_SINK) if rule.sink_H is None else (rule.sink_H / np.float32(LN2)).astype(np.float32)
    offset_O = np.zeros(0, dtype=np.int64) if change.offsets is None else change.offsets
    row_HN = change.row_HN if change.row_HN.size else np.zeros((heads, problem.rows), dtype=np.uint64)
    out_NHV = torch.empty(problem.rows, heads, v_GMV.shape[2])
    most = min(tile_bytes, TILE_BYTES)
    blocks = [(g, *block) for g in range(groups) for block in plan_rows(
        problem.start_N, problem.stop_N, each * 4, most
    )]  # fmt: skip

    def task(number: int) -> None:
        g, begin, end, low, high = blocks[number]
        at, own = slice(begin, end), slice(g * each, (g + 1) * each)
        q_RD = q_HND[own, at].reshape(each * (end - begin), -1)
        s_RK = q_RD @ tiles.problem.k_GMD[g, low:high].T
        if rule.softcap is not None:
            s_RK.mul_(rule.scaling / rule.softcap).tanh_().mul_(rule.softcap * float(tiles.scale))
        lo_Q = problem.start_N[at] - low
        bias_Q = lo_Q if rule.bias is None else low - tiles.own_N[at] - rule.bias.first_offset
        edited_passes.edit_rows(
            s_RK.view(each, end - begin, high - low).numpy(), change.action, np.float32(change.value), change.rest,
            change.by_count, change.top, np.float64(change.share),
            np.ascontiguousarray(lse2_HN[own, at]), sink2_H[own], lo_Q, problem.stop_N[at] - low, low,
            tiles.table_HR[own], bias_Q, np.ascontiguousarray(row_HN[own, at]), change.first, change.key_in_M,
            offset_O, change.offsets is None, change.query_N[at],
        )  # fmt: skip
        out_RV = s_RK @ v_GMV[g, low:high]
        out_NHV[at, own] = out_RV.view(each, end - begin, -1).transpose(0, 1)

    costs = [each * int((problem.stop_N[b:e] - problem.start_N[b:e]).sum()) for _, b, e, _, _ in blocks]
    spread(task, costs, small=SMALL_CELLS)
    return out_NHV
