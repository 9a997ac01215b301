"""A layer's attention as a linear map, by the reference: A @ X and A.T @ X tile by tile, in plain torch, on any device
and in any float type.

Suffixes: H query heads, N query rows, M keys, C columns of X, Q and K the rows and keys of one tile.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from attlas.engine.kernels.discard import Discard
from attlas.engine.kernels.measure import TILE_BYTES
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.reference import plan_rows, weights

__all__ = ["apply", "apply_transposed"]

LIVE_TILES = 4
"""Tiles alive at once."""


def apply(
    problem: Problem,
    lse_HN: torch.Tensor,
    x: torch.Tensor,
    *,
    mean: bool = False,
    discard: Discard | None = None,
    tile_bytes: int = TILE_BYTES,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """A @ X of each head, (H, N, C), or, with `mean`, of the mean of the heads, (N, C), in the dtype of X.

    lse_HN: the rows' log-sum-exp. x: (M, C), shared by the heads, or (H, M, C), one a head. A row may see no key at
    all. discard: from the mean of the heads, whose X they then share. dtype: of the weights.
    Memory: about LIVE_TILES tiles of `tile_bytes` (or of one row, if that is more), X, and what is returned.
    """
    heads, columns = problem.heads, x.shape[-1]
    out = x.new_zeros((problem.rows, columns) if mean else (heads, problem.rows, columns))
    for at, seen, a_HQK in _tiles(problem, lse_HN, tile_bytes, dtype):
        if mean and x.ndim == 2:
            a_QK = _mean(a_HQK, problem, at, seen, discard)
            out[at] = a_QK.to(x.dtype) @ x[seen]
        else:
            product_HQC = a_HQK.to(x.dtype) @ x[..., seen, :]
            out[..., at, :] = product_HQC.mean(0) if mean else product_HQC
    return out


def apply_transposed(
    problem: Problem,
    lse_HN: torch.Tensor,
    x: torch.Tensor,
    *,
    mean: bool = False,
    discard: Discard | None = None,
    tile_bytes: int = TILE_BYTES,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """A.T @ X of each head, (H, M, C), or, with `mean`, of the mean of the heads, (M, C), in the dtype of X.

    x: (N, C), shared by the heads, or (H, N, C), one a head. The rest as `apply`.
    """
    heads, columns = problem.heads, x.shape[-1]
    out = x.new_zeros((problem.keys, columns) if mean else (heads, problem.keys, columns))
    for at, seen, a_HQK in _tiles(problem, lse_HN, tile_bytes, dtype):
        if mean and x.ndim == 2:
            a_QK = _mean(a_HQK, problem, at, seen, discard)
            out[seen] += a_QK.to(x.dtype).T @ x[at]
        else:
            product_HKC = a_HQK.to(x.dtype).transpose(1, 2) @ x[..., at, :]
            out[..., seen, :] += product_HKC.mean(0) if mean else product_HKC
    return out


def _tiles(
    problem: Problem, lse_HN: torch.Tensor, tile_bytes: int, dtype: torch.dtype
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """(rows, keys, weights (H, Q, K)) of every tile; whole rows."""
    for begin, end, low, high in plan_rows(problem.start_N, problem.stop_N, problem.heads * dtype.itemsize, tile_bytes):
        if low < high:
            at, seen = slice(begin, end), slice(low, high)
            yield at, seen, weights(problem.tile(at, seen), lse_HN[:, at], key_M=np.arange(low, high), dtype=dtype)


def _mean(a_HQK: torch.Tensor, problem: Problem, at: slice, seen: slice, discard: Discard | None) -> torch.Tensor:
    a_QK = a_HQK.mean(0)
    if discard is None:
        return a_QK
    kept_QK = a_QK.cpu().numpy()
    discard.of_rows(kept_QK, problem.start_N[at] - seen.start, problem.stop_N[at] - seen.start)
    return torch.from_numpy(kept_QK).to(a_QK.device)
