"""The accumulators of the CPU kernels' pass: what every slot of the row statistics is read off.

Suffixes: H heads, N rows, S sums of `passes`, X chosen keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import passes
from attlas.engine.kernels.cpu_tiles import LN2, Tile
from attlas.engine.kernels.problem import Problem, TokenFacts
from attlas.engine.kernels.row_statistics import STATISTICS, Slot

__all__ = ["RowSums", "add_gram"]

GRAM_CELLS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class RowSums:
    """Sums, maxima and picked weights of some rows, added to tile by tile. lse2_HN: their log-sum-exp in base 2."""

    lse2_HN: NDArray[np.float32]
    sums_HNS: NDArray[np.float64]
    largest_HN: NDArray[np.float32]
    argmax_HN: NDArray[np.int64]
    picked_HNX: NDArray[np.float32]

    @classmethod
    def of(cls, lse_HN: torch.Tensor) -> RowSums:
        """Empty sums of rows whose log-sum-exp (H, N), float32, is known."""
        heads, rows = lse_HN.shape
        return cls(
            lse2_HN=np.ascontiguousarray(lse_HN.numpy() / np.float32(LN2), dtype=np.float32),
            sums_HNS=np.zeros((heads, rows, passes.SUMS)),
            largest_HN=np.full((heads, rows), -1, dtype=np.float32),
            argmax_HN=np.zeros((heads, rows), dtype=np.int64),
            picked_HNX=np.zeros((heads, rows, 6), dtype=np.float32),
        )

    def copy(self, at: slice) -> RowSums:
        """Some rows, contiguous, as the compiled pass wants them."""
        return RowSums(
            self.lse2_HN[:, at].copy(), self.sums_HNS[:, at].copy(), self.largest_HN[:, at].copy(),
            self.argmax_HN[:, at].copy(), self.picked_HNX[:, at].copy(),
        )  # fmt: skip

    def put(self, at: slice, part: RowSums) -> None:
        self.sums_HNS[:, at], self.largest_HN[:, at] = part.sums_HNS, part.largest_HN
        self.argmax_HN[:, at], self.picked_HNX[:, at] = part.argmax_HN, part.picked_HNX

    def pick(self, tile: Tile, tokens: TokenFacts, at: slice) -> None:
        """Add a tile's weights on chosen keys; `at`: the rows of `tokens` that these sums are of."""
        order, (begin_N, end_N) = tokens.order, tokens.copies
        passes.special(
            tile.s_HQK, tile.key, tokens.first_N[at], tokens.own_or_none_N[at], order.special_S, order.order_M,
            begin_N[at], end_N[at], self.picked_HNX,
        )  # fmt: skip

    def values(self, problem: Problem, lse_HN: torch.Tensor, names: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """The named row statistics, (H, N), all of which have a slot."""
        found: dict[Slot, NDArray[Any]] = {
            Slot.LARGEST: self.largest_HN,
            Slot.LARGEST_KEY: self.argmax_HN - problem.tokens.first_N,
            Slot.ON_FIRST: self.picked_HNX[:, :, 0],
            Slot.ON_SELF: self.picked_HNX[:, :, 1],
            Slot.ON_PREVIOUS: self.picked_HNX[:, :, 2],
            Slot.ON_SPECIAL: self.picked_HNX[:, :, 3],
            Slot.ON_COPIES: self.picked_HNX[:, :, 4],
            Slot.BEHIND_COPIES: self.picked_HNX[:, :, 5],
            Slot.DISTANCE: self.sums_HNS[:, :, passes.DISTANCE],
            Slot.SQUARED: self.sums_HNS[:, :, passes.SQUARED],
            Slot.ENTROPY: self.sums_HNS[:, :, passes.ENTROPY] * LN2,
        }
        found[Slot.SINK] = np.zeros_like(self.largest_HN)
        if problem.rule.sink_H is not None:
            # 1 - sum(a) without the rounding of the sum: the sink logit is the one term of the row that is left out
            sink_H = np.asarray(problem.rule.sink_H, dtype=np.float64)
            found[Slot.SINK] = np.exp(sink_H[:, None] - lse_HN.numpy().astype(np.float64))
        values = {}
        for name in names:
            slot = STATISTICS[name].slot
            assert slot is not None, f"{name} has no slot: the reference computes it"
            values[name] = found[slot].astype(np.float32)
        return values


def add_gram(a_HQK: torch.Tensor, gram_HH: torch.Tensor) -> None:
    """Add a tile's sums over cells of A_h A_g; no float32 sum runs over more than GRAM_CELLS cells (or one row)."""
    heads, rows, keys = a_HQK.shape
    step = max(1, GRAM_CELLS // keys)
    for row in range(0, rows, step):
        flat = a_HQK[:, row : row + step].reshape(heads, -1)
        gram_HH += (flat @ flat.T).double()
