"""Which kernel computes what: the one place that chooses between them.

Output and log-sum-exp come from torch's fused attention where it knows the score rule, else from the CPU kernel's
online softmax; row statistics from the CPU kernel's compiled pass; other devices than the CPU run the reference.

Suffixes: H query heads, G kv heads, N query rows, M keys, D features, V value features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import cpu, reference, sdpa
from attlas.engine.kernels.reference import Attended, RowStatistics, TokenFacts
from attlas.engine.rules import ScoreRule

__all__ = ["attend", "row_statistics"]

Indices = NDArray[np.int64]


def attend(
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    v_GMV: torch.Tensor,
    rule: ScoreRule,
    *,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
) -> Attended:
    """A layer's output (N, H, V), in the values' dtype, and its rows' log-sum-exp (H, N), float32."""
    if sdpa.supports(q_HND, v_GMV, rule):
        return sdpa.attend(q_HND, k_GMD, v_GMV, rule, start_N=start_N, stop_N=stop_N)
    if q_HND.device.type == "cpu":
        return cpu.attend(q_HND, k_GMD, v_GMV, rule, start_N=start_N, stop_N=stop_N, own_N=facts.own_N)
    return reference.attend(q_HND, k_GMD, v_GMV, rule, start_N=start_N, stop_N=stop_N, facts=facts)


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
    """Row statistics (H, N), float32, of any rows, whose log-sum-exp is known."""
    if q_HND.device.type == "cpu":
        return cpu.row_statistics(
            q_HND, k_GMD, rule, lse_HN=lse_HN, start_N=start_N, stop_N=stop_N, facts=facts, names=names,
            histogram=histogram, head_gram=head_gram,
        )  # fmt: skip
    return reference.row_statistics(
        q_HND, k_GMD, rule, start_N=start_N, stop_N=stop_N, facts=facts, names=names,
        histogram=histogram, head_gram=head_gram,
    )  # fmt: skip
