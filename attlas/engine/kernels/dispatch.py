"""Which kernel computes what: the one place that chooses between them.

On the CPU, output and log-sum-exp come from torch's fused attention where it knows the score rule, else from the CPU
kernel's online softmax, and row statistics from the CPU kernel's compiled pass. On CUDA one Triton kernel gives all of
them. Histogram and head Gram matrix on CUDA, and everything on other devices, come from the reference.

Suffixes: H query heads, G kv heads, N query rows, M keys, D features, V value features.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels import cpu, reference, sdpa
from attlas.engine.kernels.reference import TILE_BYTES, Attended, RowStatistics, TokenFacts

__all__ = ["Measure", "attend"]

Indices = NDArray[np.int64]

HAS_TRITON = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measure:
    """What to measure beside a layer's output, and of what.

    names: row statistics. heads, rows: the query heads and rows to measure, ascending; None for all. tile_bytes: size
    of a score tile of the reference kernel.
    """

    names: tuple[str, ...] = ()
    histogram: bool = False
    head_gram: bool = False
    heads: Indices | None = None
    rows: Indices | None = None
    tile_bytes: int = TILE_BYTES

    @property
    def statistics(self) -> bool:
        return bool(self.names) or self.histogram or self.head_gram


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """One call of a kernel."""

    q_HND: torch.Tensor
    k_GMD: torch.Tensor
    v_GMV: torch.Tensor
    rule: ScoreRule
    start_N: Indices
    stop_N: Indices
    facts: TokenFacts

    @property
    def device(self) -> str:
        return self.q_HND.device.type

    @property
    def triton(self) -> bool:
        """Whether the Triton kernel computes it."""
        if self.device != "cuda" or not HAS_TRITON:
            return False
        from attlas.engine.kernels import cuda  # triton is made for Linux alone, and is heavy

        return cuda.supports(self.q_HND, self.v_GMV)

    def of(self, heads: Indices | None, rows: Indices | None) -> _Call:
        """The same for some heads and rows; kv heads stay shared where as many of the heads use each."""
        part = self
        if rows is not None:
            part = replace(
                part,
                q_HND=part.q_HND[:, rows],
                start_N=part.start_N[rows],
                stop_N=part.stop_N[rows],
                facts=part.facts.of_rows(rows),
            )
        if heads is not None:
            place = heads // (part.q_HND.shape[0] // part.k_GMD.shape[0])
            shared, counts = np.unique(place, return_counts=True)
            place = shared if len(set(counts.tolist())) == 1 else place
            part = replace(
                part,
                q_HND=part.q_HND[heads],
                k_GMD=part.k_GMD[place],
                v_GMV=part.v_GMV[place],
                rule=part.rule.for_heads(heads),
            )
        return part


def attend(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    v_GMV: torch.Tensor,
    rule: ScoreRule,
    *,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
    measure: Measure,
) -> Attended:
    """A layer's output (N, H, V), in the values' dtype, for all heads and rows; log-sum-exp and row statistics of the
    measured ones, (h, n), float32.

    start_N, stop_N: each row's key interval, not empty, in indices into the M keys.
    """
    whole = _Call(
        q_HND=q_HND, k_GMD=k_GMD, v_GMV=v_GMV, rule=rule, start_N=start_N, stop_N=stop_N, facts=facts
    )  # fmt: skip
    everywhere = measure.heads is None and measure.rows is None
    attended = _output(whole, measure.names if everywhere else (), measure.tile_bytes)
    rows, part = attended.rows, whole
    if not everywhere:
        part, lse_HN = whole.of(measure.heads, measure.rows), rows.lse_HN
        lse_HN = lse_HN if measure.heads is None else lse_HN[measure.heads]
        rows = RowStatistics(lse_HN=lse_HN if measure.rows is None else lse_HN[:, measure.rows])
    if measure.statistics and part.start_N.size:
        rows = _statistics(part, rows, measure)
    return replace(attended, rows=rows)


def _output(call: _Call, names: tuple[str, ...], tile_bytes: int) -> Attended:
    """Output and log-sum-exp, and with them the statistics `names` where one pass gives both."""
    q, k, v, start, stop, facts = call.q_HND, call.k_GMD, call.v_GMV, call.start_N, call.stop_N, call.facts
    if call.triton:
        from attlas.engine.kernels import cuda

        return cuda.attend(q, k, v, call.rule, start_N=start, stop_N=stop, facts=facts, names=names)
    if call.device != "cpu":
        return reference.attend(
            q, k, v, call.rule, start_N=start, stop_N=stop, facts=facts, names=names, tile_bytes=tile_bytes
        )
    if sdpa.supports(q, v, call.rule):
        return sdpa.attend(q, k, v, call.rule, start_N=start, stop_N=stop)
    return cpu.attend(q, k, v, call.rule, start_N=start, stop_N=stop, own_N=facts.own_N)


def _statistics(call: _Call, rows: RowStatistics, measure: Measure) -> RowStatistics:
    """Add what `rows` lacks of the measure."""
    q, k, start, stop = call.q_HND, call.k_GMD, call.start_N, call.stop_N
    if call.device == "cpu":
        return cpu.row_statistics(
            q, k, call.rule, lse_HN=rows.lse_HN, start_N=start, stop_N=stop, facts=call.facts, names=measure.names,
            histogram=measure.histogram, head_gram=measure.head_gram,
        )  # fmt: skip
    if measure.names and not rows.statistics:
        rows = _output(call, measure.names, measure.tile_bytes).rows
    if not (measure.histogram or measure.head_gram):
        return rows
    counted = reference.row_statistics(
        q, k, call.rule, start_N=start, stop_N=stop, facts=call.facts, names=(), histogram=measure.histogram,
        head_gram=measure.head_gram, tile_bytes=measure.tile_bytes,
    )  # fmt: skip
    return replace(rows, histogram_HB=counted.histogram_HB, head_gram_HH=counted.head_gram_HH)
