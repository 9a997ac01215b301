"""Listeners that keep what gives some heads' weights exactly, for those who set runs side by side.

Suffixes: H query heads that are kept, N the rows of a chunk, M keys so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels import door
from attlas.engine.kernels.measure import Attended
from attlas.engine.kernels.problem import Problem

__all__ = ["Kept", "KeepingProblems", "KeepingRow", "first_key"]

Indices = NDArray[np.int64]
Kept = tuple[Problem, torch.Tensor]
"""Rows of some heads over their keys, and the log-sum-exp (H, N)."""


def first_key(problem: Problem, first_row: int) -> int:
    """The place in the document of a problem's first key, of rows of the same text. first_row: of its first row."""
    assert problem.tokens.own_N is not None
    return first_row - int(problem.tokens.own_N[0])


class KeepingProblems(Listener):
    """Keeps the problem and log-sum-exp of some heads of some layers, chunk by chunk, until it is dropped.

    modules: the layers, by the names of their attention modules. heads: ascending.
    """

    def __init__(self, modules: Sequence[str], heads: Indices) -> None:
        self.modules, self.heads = tuple(modules), heads
        self._chunks: dict[tuple[str, int], Kept] = {}

    def chunks(self, module: str) -> list[tuple[int, Kept]]:
        """The first row of each chunk, and what is kept of it, in order."""
        return sorted(
            ((first, kept) for (name, first), kept in self._chunks.items() if name == module), key=lambda one: one[0]
        )

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        assert call.chunk is not None
        module = call.chunk.layout.module
        if module in self.modules:
            problem, lse_HN = call.problem().of(self.heads), attended.rows.lse_HN[torch.from_numpy(self.heads)]
            self._chunks[module, call.chunk.rows.start] = problem, lse_HN
        return attended


class KeepingRow(Listener):
    """Keeps the weights of one row in some heads of some causal layers. row: its place in the document.

    weights: module -> (H, row + 1) float32, over the document's tokens up to the row's own.
    """

    def __init__(self, modules: Sequence[str], heads: Indices, row: int) -> None:
        self.modules, self.heads, self.row = frozenset(modules), heads, row
        self.weights: dict[str, NDArray[np.float32]] = {}

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        assert call.chunk is not None
        module, at = call.chunk.layout.module, self.row - call.chunk.rows.start
        if module in self.modules and 0 <= at < call.q_HND.shape[1]:
            problem = call.problem().of(self.heads, np.array([at]))
            lse_HN = attended.rows.lse_HN[torch.from_numpy(self.heads)][:, at : at + 1]
            begin = first_key(problem, self.row)
            a_HM = door.weights(problem, lse_HN)[:, 0, : self.row + 1 - begin].float().cpu().numpy()
            self.weights[module] = np.pad(a_HM, ((0, 0), (begin, self.row + 1 - begin - a_HM.shape[1])))
        return attended
