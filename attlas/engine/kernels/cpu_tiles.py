"""A problem cut into tiles of scores that stay in a core's L2 cache, for the CPU kernels.

Suffixes: H query heads, G kv heads, N query rows, M keys, Q and K those of one tile, R offsets of a position bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.threads import spread

__all__ = ["LN2", "TILE_BYTES", "Tile", "TilePlan", "Tiles", "plan_tiles"]

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]

TILE_BYTES = 5 * 2**18
"""Bytes of one float32 score tile over all heads: about a core's L2 cache; taller tiles make BLAS faster."""

ROWS = 128
LN2 = 0.6931471805599453

SMALL_CELLS = 2**17
"""So many cells are computed within the time that it takes to wake other threads."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Scores of one tile before scaling and bias, and where its rows' intervals and own keys lie in its columns.

    key: index of its first column's key. bias_Q: each row's place in the bias table of the first column.
    """

    s_HQK: Floats
    key: int
    lo_Q: Indices
    hi_Q: Indices
    own_Q: Indices
    bias_Q: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """A problem, its factors in float32, ready to be cut. scale: from what a tile holds to base-2 logarithms."""

    problem: Problem
    scale: np.float32
    own_N: Indices
    table_HR: Floats
    plan: TilePlan

    @classmethod
    def of(cls, problem: Problem, tile_bytes: int) -> Tiles:
        """tile_bytes: the most that a tile takes; no tile takes more than TILE_BYTES, unless it is 8 x 64."""
        rule = problem.rule
        return cls(
            problem=replace(problem, q_HND=problem.q_HND.float(), k_GMD=problem.k_GMD.float()),
            scale=np.float32((1.0 if rule.softcap is not None else rule.scaling) / LN2),
            own_N=problem.tokens.own_or_none_N,
            table_HR=np.zeros((problem.heads, 0), dtype=np.float32) if rule.bias is None else rule.bias.table_HR,
            plan=plan_tiles(problem.heads, problem.rows, min(tile_bytes, TILE_BYTES)),
        )

    def each_block(self, task: Callable[[int, int], None]) -> None:
        """Run task(begin, end) for every row block, spread over threads."""
        blocks, heads = self.plan.blocks, self.problem.heads
        seen_N = self.problem.stop_N - self.problem.start_N
        spread(
            lambda i: task(*blocks[i]),
            [heads * int(seen_N[begin:end].sum()) for begin, end in blocks],
            small=SMALL_CELLS,
        )

    def of_block(self, begin: int, end: int) -> Iterator[Tile]:
        """The tiles of one row block that hold a visible cell, one after the other in one buffer."""
        problem, rule = self.problem, self.problem.rule
        at, heads, groups, count = slice(begin, end), problem.heads, problem.groups, end - begin
        q_GRD = problem.q_HND[:, at].reshape(groups, heads // groups * count, problem.features)
        start_Q, stop_Q, own_Q = problem.start_N[at], problem.stop_N[at], self.own_N[at]
        low, high = int(start_Q.min()), int(stop_Q.max())
        buffer = torch.empty(heads * count * min(self.plan.keys, high - low))
        for key in range(low, high, self.plan.keys):
            stop = min(key + self.plan.keys, high)
            keys = stop - key
            lo_Q, hi_Q = np.clip(start_Q - key, 0, keys), np.clip(stop_Q - key, 0, keys)
            if not (lo_Q < hi_Q).any():
                continue
            s_GRK = buffer[: heads * count * keys].view(groups, -1, keys)
            torch.bmm(q_GRD, problem.k_GMD[:, key:stop].transpose(1, 2), out=s_GRK)
            if rule.softcap is not None:
                s_GRK.mul_(rule.scaling / rule.softcap).tanh_().mul_(rule.softcap)
            bias_Q = lo_Q if rule.bias is None else key - own_Q - rule.bias.first_offset
            yield Tile(s_GRK.view(heads, count, keys).numpy(), key, lo_Q, hi_Q, own_Q - key, bias_Q)
