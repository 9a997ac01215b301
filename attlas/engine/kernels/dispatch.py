"""Which kernel computes what: the one place that chooses between them.

On the CPU, output and log-sum-exp come from torch's fused attention where it knows the score rule, else from the CPU
kernel's online softmax, and row statistics from the CPU kernel's compiled pass. On CUDA one Triton kernel gives all of
them. Histogram and head Gram matrix on CUDA, and everything on other devices, come from the reference.

Suffixes: H query heads, G kv heads, N query rows, M keys, D features, V value features.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.kernels import cpu, reference, sdpa
from attlas.engine.kernels.reference import Attended, TokenFacts
from attlas.engine.rules import ScoreRule

__all__ = ["attend"]

Indices = NDArray[np.int64]

HAS_TRITON = importlib.util.find_spec("triton") is not None


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
) -> Attended:
    """A layer's output (N, H, V), in the values' dtype, its rows' log-sum-exp and row statistics (H, N), float32.

    start_N, stop_N: each row's key interval, not empty, in indices into the M keys. names: which row statistics.
    """
    where = {"start_N": start_N, "stop_N": stop_N}
    if q_HND.device.type == "cpu":
        if sdpa.supports(q_HND, v_GMV, rule):
            attended = sdpa.attend(q_HND, k_GMD, v_GMV, rule, **where)
        else:
            attended = cpu.attend(q_HND, k_GMD, v_GMV, rule, own_N=facts.own_N, **where)
        if not (names or histogram or head_gram):
            return attended
        rows = cpu.row_statistics(
            q_HND, k_GMD, rule, lse_HN=attended.rows.lse_HN, facts=facts, names=names, histogram=histogram,
            head_gram=head_gram, start_N=start_N, stop_N=stop_N,
        )  # fmt: skip
        return replace(attended, rows=rows)
    if q_HND.device.type == "cuda" and HAS_TRITON:
        from attlas.engine.kernels import cuda  # triton is made for Linux alone, and is heavy

        if cuda.supports(q_HND, v_GMV):
            attended = cuda.attend(q_HND, k_GMD, v_GMV, rule, facts=facts, names=names, **where)
            if not (histogram or head_gram):
                return attended
            counted = reference.row_statistics(
                q_HND, k_GMD, rule, facts=facts, names=(), histogram=histogram, head_gram=head_gram,
                start_N=start_N, stop_N=stop_N,
            )  # fmt: skip
            rows = replace(attended.rows, histogram_HB=counted.histogram_HB, head_gram_HH=counted.head_gram_HH)
            return replace(attended, rows=rows)
    return reference.attend(
        q_HND, k_GMD, v_GMV, rule, facts=facts, names=names, histogram=histogram, head_gram=head_gram,
        start_N=start_N, stop_N=stop_N,
    )  # fmt: skip
