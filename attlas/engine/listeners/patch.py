"""Listeners that carry attention from one run of a model into another: the heads' outputs, or their weights.

Weights are carried as q and k, which give them exactly with the other run's values; nothing takes N x N memory.

Suffixes: H query heads, h those that are patched, N the rows of a chunk, M keys so far, D and V features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.kernels import door
from attlas.engine.kernels.measure import Attended, Measure

__all__ = ["CARRIED", "Patching", "Source"]

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

CARRIED = ("output", "weights")


class Source(Listener):
    """Keeps what every layer's heads give in one run. what: of CARRIED.

    Memory: "output" (N, H, V) a layer, "weights" q (H, N, D) and k (G, N, D) a layer.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.out_NHV: dict[tuple[str, int], torch.Tensor] = {}
        self.q_HND: dict[tuple[str, int], torch.Tensor] = {}
        self.k_GMD: dict[str, torch.Tensor] = {}

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        module, first = _place(call)
        if self.what == "output":
            self.out_NHV[module, first] = attended.out_NHV.clone()
        else:
            self.q_HND[module, first] = call.q_HND.clone()
            self.k_GMD[module] = call.k_GMD.clone()  # of all chunks so far
        return attended


class Patching(Listener):
    """Puts what a source kept in the place of some heads' own.

    heads: module -> the heads that are patched. rows_T: of which tokens of the document, (T,); None for all. The runs
    have the same tokens' number and chunks.
    """

    def __init__(self, source: Source, heads: Mapping[str, Indices], rows_T: Flags | None = None) -> None:
        self.source, self.heads, self.rows_T = source, heads, rows_T

    def after(self, call: AttentionCall, attended: Attended) -> Attended:
        module, first = _place(call)
        if module not in self.heads:
            return attended
        heads = self.heads[module]
        row_N = np.arange(call.q_HND.shape[1])
        if self.rows_T is not None:
            row_N = row_N[self.rows_T[first : first + len(row_N)]]
        if not row_N.size:
            return attended
        out_NHV = attended.out_NHV.clone()
        at = torch.from_numpy(row_N)[:, None], torch.from_numpy(heads)
        out_NHV[at] = self._given(call, module, first, heads, row_N).to(out_NHV.dtype)
        return replace(attended, out_NHV=out_NHV)

    def _given(self, call: AttentionCall, module: str, first: int, heads: Indices, row_N: Indices) -> torch.Tensor:
        """(rows, h, V)."""
        if self.source.what == "output":
            return self.source.out_NHV[module, first][torch.from_numpy(row_N)[:, None], torch.from_numpy(heads)]
        q_HND, k_GMD = self.source.q_HND[module, first], self.source.k_GMD[module][:, : call.k_GMD.shape[1]]
        problem = replace(call, q_HND=q_HND, k_GMD=k_GMD).problem().of(heads, row_N)
        v_hMV = call.v_GMV[torch.from_numpy(heads // (len(q_HND) // len(call.v_GMV)))]
        return door.attend(problem, v_hMV, Measure()).out_NHV


def _place(call: AttentionCall) -> tuple[str, int]:
    assert call.chunk is not None, "a call is placed in a passage before it is patched"
    return call.chunk.layout.module, call.chunk.rows.start
