"""The gradient of a layer's attention with respect to its queries, keys and values, under any score rule.

By torch's fused backward pass where that knows the rule, else tile by tile, from the factors and the log-sum-exp: no
tile outlives its turn, so memory does not grow with N x N.

Suffixes: H query heads, G kv heads, N query rows, M keys, Q and K the rows and keys of one tile, D features, V value
features.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from attlas.engine.kernels import sdpa, sdpa_backward
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.reference import plan_rows, weights

__all__ = ["attend_backward", "by_tiles"]

LIVE_TILES = 4
"""Tiles of float32 alive at once."""


def attend_backward(
    problem: Problem,
    v_GMV: torch.Tensor,
    *,
    grad_NHV: torch.Tensor,
    out_NHV: torch.Tensor,
    lse_HN: torch.Tensor,
    tile_bytes: int = TILE_BYTES,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, in their dtypes, from grad_NHV, that of the layer's output out_NHV.

    lse_HN: float32, of all heads and rows. A position bias and a sink logit are taken for constants. Sums are float32.
    Memory: about LIVE_TILES tiles of `tile_bytes` (or of one row, if that is more) and float32 gradients.
    """
    if sdpa.supports(problem, v_GMV):
        return sdpa_backward.attend_backward(problem, v_GMV, grad_NHV=grad_NHV, out_NHV=out_NHV, lse_HN=lse_HN)
    return by_tiles(problem, v_GMV, grad_NHV=grad_NHV, out_NHV=out_NHV, lse_HN=lse_HN, tile_bytes=tile_bytes)


def by_tiles(
    problem: Problem,
    v_GMV: torch.Tensor,
    *,
    grad_NHV: torch.Tensor,
    out_NHV: torch.Tensor,
    lse_HN: torch.Tensor,
    tile_bytes: int = TILE_BYTES,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `attend_backward`, under any rule."""
    q_HND, k_GMD, rule, heads, groups = problem.q_HND, problem.k_GMD, problem.rule, problem.heads, problem.groups
    dq_HND = torch.zeros_like(q_HND, dtype=torch.float32)
    dk_GMD = torch.zeros_like(k_GMD, dtype=torch.float32)
    dv_GMV = torch.zeros_like(v_GMV, dtype=torch.float32)
    for begin, end, low, high in plan_rows(problem.start_N, problem.stop_N, heads * 4, tile_bytes):
        at, seen = slice(begin, end), slice(low, high)
        tile = problem.tile(at, seen)
        tile = replace(tile, q_HND=tile.q_HND.float(), k_GMD=tile.k_GMD.float())
        q_HQD, k_GKD = tile.q_HND, tile.k_GMD
        a_HQK = weights(tile, lse_HN[:, at], key_M=np.arange(low, high))
        grad_HQV = grad_NHV[at].transpose(0, 1).float()
        dv_GMV[:, seen] += _by_group(a_HQK, groups).transpose(1, 2) @ _by_group(grad_HQV, groups)
        # the softmax takes from each weight's gradient the row's mean of them, which is dO . O, sink or not
        mean_HQ = (grad_HQV * out_NHV[at].transpose(0, 1).float()).sum(2)
        ds_HQK = (_by_group(grad_HQV, groups) @ v_GMV[:, seen].float().transpose(1, 2)).reshape(a_HQK.shape)
        ds_HQK.sub_(mean_HQ[:, :, None]).mul_(a_HQK)
        if rule.softcap is not None:
            score_HQK = (_by_group(q_HQD, groups) @ k_GKD.transpose(1, 2)).reshape(a_HQK.shape)
            ds_HQK.mul_(1 - torch.tanh_(score_HQK.mul_(rule.scaling / rule.softcap)).square_())
        ds_GRK = _by_group(ds_HQK.mul_(rule.scaling), groups)
        dq_HND[:, at] = (ds_GRK @ k_GKD).reshape(heads, end - begin, -1)
        dk_GMD[:, seen] += ds_GRK.transpose(1, 2) @ _by_group(q_HQD, groups)
    return dq_HND.to(q_HND.dtype), dk_GMD.to(k_GMD.dtype), dv_GMV.to(v_GMV.dtype)


def _by_group(x_HQY: torch.Tensor, groups: int) -> torch.Tensor:
    """The rows of the heads that share a kv head one below the other: (G, H/G * Q, Y)."""
    return x_HQY.reshape(groups, -1, x_HQY.shape[2])
