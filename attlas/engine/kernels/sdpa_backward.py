"""The backward pass of the SDPA kernel: gradients of q, k and v through torch's fused CPU attention, piece by piece.

A piece's weights follow from the row's own log-sum-exp over all its keys, so that pieces of one row, and a sink logit,
add up without joining.

Suffixes: H query heads, G kv heads, N query rows, M keys, Q rows and K keys of a piece, D features, V value features.
"""

from __future__ import annotations

import torch

from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.sdpa import Piece, cut, piece_mask

__all__ = ["attend_backward"]


def attend_backward(
    problem: Problem, v_GMV: torch.Tensor, *, grad_NHV: torch.Tensor, out_NHV: torch.Tensor, lse_HN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v. `attlas.engine.kernels.sdpa.supports` must hold. Memory: what is returned, and keys and
    values of all query heads of a piece, with their gradients."""
    q_HND, k_GMD = problem.q_HND, problem.k_GMD
    dq_HND, dk_GMD, dv_GMV = (torch.zeros_like(x) for x in (q_HND, k_GMD, v_GMV))
    grad_HNV, out_HNV = grad_NHV.transpose(0, 1), out_NHV.transpose(0, 1)
    for piece in cut(problem.start_N, problem.stop_N):
        at, seen = slice(piece.row, piece.row_stop), slice(piece.key, piece.key_stop)
        dq_HQD, dk_HKD, dv_HKV = _fused(
            problem, piece, q_HND[:, at], _of_heads(k_GMD[:, seen], len(q_HND)), _of_heads(v_GMV[:, seen], len(q_HND)),
            grad_HNV[:, at], out_HNV[:, at], lse_HN[:, at],
        )  # fmt: skip
        dq_HND[:, at] += dq_HQD
        dk_GMD[:, seen] += _by_group(dk_HKD, len(k_GMD))
        dv_GMV[:, seen] += _by_group(dv_HKV, len(v_GMV))
    return dq_HND, dk_GMD, dv_GMV


def _fused(
    problem: Problem,
    piece: Piece,
    q_HQD: torch.Tensor,
    k_HKD: torch.Tensor,
    v_HKV: torch.Tensor,
    grad_HQV: torch.Tensor,
    out_HQV: torch.Tensor,
    lse_HQ: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    at = slice(piece.row, piece.row_stop)
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_HQV[None],
        q_HQD[None],
        k_HKD[None],
        v_HKV[None],
        out_HQV[None],
        lse_HQ[None].contiguous(),
        0.0,
        piece.shape == "causal",
        attn_mask=piece_mask(piece, problem.start_N[at], problem.stop_N[at]),
        scale=problem.rule.scaling,
    )
    return dq[0], dk[0], dv[0]


def _of_heads(x_GKD: torch.Tensor, heads: int) -> torch.Tensor:
    """Each kv head once for every query head that uses it."""
    return x_GKD if len(x_GKD) == heads else x_GKD.repeat_interleave(heads // len(x_GKD), dim=0)


def _by_group(x_HKD: torch.Tensor, groups: int) -> torch.Tensor:
    """Summed over the query heads that use a kv head."""
    return x_HKD if len(x_HKD) == groups else x_HKD.unflatten(0, (groups, -1)).sum(1)
