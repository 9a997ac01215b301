"""The gradient of a layer's attention with respect to its queries, keys and values, under any score rule.

Tile by tile, from the factors and the log-sum-exp: no tile outlives its turn, so memory does not grow with N x N.

Suffixes: H query heads, G kv heads, N query rows, M keys, Q and K the rows and keys of one tile, D features, V value
features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.engine.attention.score_rule import ScoreRule
from attlas.engine.kernels.reference import TILE_BYTES, TokenFacts, weights

__all__ = ["attend_backward", "row_blocks"]

Indices = NDArray[np.int64]

BLOCK_ROWS = 256
LIVE_TILES = 4
"""Tiles of float32 alive at once."""


def attend_backward(
    grad_NHV: torch.Tensor,
    q_HND: torch.Tensor,
    k_GMD: torch.Tensor,
    v_GMV: torch.Tensor,
    out_NHV: torch.Tensor,
    lse_HN: torch.Tensor,
    rule: ScoreRule,
    *,
    start_N: Indices,
    stop_N: Indices,
    facts: TokenFacts,
    tile_bytes: int = TILE_BYTES,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, in their dtypes, from grad_NHV, that of the layer's output out_NHV.

    lse_HN: float32, of all heads and rows. A position bias and a sink logit are taken for constants. Sums are float32.
    Memory: about LIVE_TILES tiles of `tile_bytes` (or of one row, if that is more) and float32 gradients.
    """
    heads, rows, _ = q_HND.shape
    groups = len(k_GMD)
    share = heads // groups
    dq_HND = torch.zeros_like(q_HND, dtype=torch.float32)
    dk_GMD = torch.zeros_like(k_GMD, dtype=torch.float32)
    dv_GMV = torch.zeros_like(v_GMV, dtype=torch.float32)
    position_N = facts.own_N if facts.own_N is not None else np.zeros(rows, dtype=np.int64)
    for begin, end, low, high in row_blocks(start_N, stop_N, heads * 4, tile_bytes):
        at, seen = slice(begin, end), slice(low, high)
        q_HQD, k_GKD = q_HND[:, at].float(), k_GMD[:, seen].float()
        a_HQK = weights(
            q_HQD, k_GKD, lse_HN[:, at], rule, start_Q=start_N[at], stop_Q=stop_N[at],
            query_positions_Q=position_N[at], key_positions_K=np.arange(low, high),
        )  # fmt: skip
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
        dk_GMD[:, seen] += ds_GRK.transpose(1, 2) @ q_HQD.reshape(groups, share * (end - begin), -1)
    return dq_HND.to(q_HND.dtype), dk_GMD.to(k_GMD.dtype), dv_GMV.to(v_GMV.dtype)


def row_blocks(start_N: Indices, stop_N: Indices, cell_bytes: int, tile_bytes: int) -> list[tuple[int, int, int, int]]:
    """Cut rows into blocks (begin, end, low, high): rows [begin, end) see keys in [low, high), and a tile of them takes
    at most tile_bytes where cell_bytes are those of a cell of all heads; a block has at least one row."""
    found, begin, rows = [], 0, len(start_N)
    while begin < rows:
        low_N = np.minimum.accumulate(start_N[begin : begin + BLOCK_ROWS])
        high_N = np.maximum.accumulate(stop_N[begin : begin + BLOCK_ROWS])
        size_N = (high_N - low_N) * np.arange(1, len(low_N) + 1) * cell_bytes
        count = max(1, int(np.searchsorted(size_N, tile_bytes, side="right")))
        found.append((begin, begin + count, int(low_N[count - 1]), int(high_N[count - 1])))
        begin += count
    return found


def _by_group(x_HQY: torch.Tensor, groups: int) -> torch.Tensor:
    """The rows of the heads that share a kv head one below the other: (G, H/G * Q, Y)."""
    return x_HQY.reshape(groups, -1, x_HQY.shape[2])
