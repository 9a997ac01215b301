"""Random numbers that belong to a cell: the same for a seed, layer, head, query and key, however the work is cut.

A counter-based generator: two rounds of splitmix64's finaliser (Steele et al. 2014, doi 10.1145/2714064.2660195) of
the cell's number; normal ones by the inverse of their distribution.

Suffixes: H heads, Q queries, K keys.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["normal", "row_states", "uniform"]

Indices = NDArray[np.int64]

GOLDEN, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Splitmix64's constants, as torch's signed numbers."""


def uniform(
    seed: int, layer: int, heads: Indices, query_Q: Indices, key_K: Indices, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """(H, Q, K) float32 in [0, 1), the same on every device."""
    return _high(_cells(seed, layer, heads, query_Q, key_K, device)).float()


def normal(
    seed: int, layer: int, heads: Indices, query_Q: Indices, key_K: Indices, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """(H, Q, K) float32, of mean 0 and variance 1; the same on every device but for rounding."""
    middle = _high(_cells(seed, layer, heads, query_Q, key_K, device)) + 2.0**-25
    return (math.sqrt(2) * torch.erfinv(2 * middle - 1)).float()


def row_states(seed: int, layer: int, heads: Indices, query_Q: Indices) -> NDArray[np.uint64]:
    """(H, Q): what the numbers of a row's cells begin from, for compiled code that draws them itself."""
    return _rows(seed, layer, heads, query_Q).numpy().view(np.uint64)


def _cells(
    seed: int, layer: int, heads: Indices, query_Q: Indices, key_K: Indices, device: torch.device | str
) -> torch.Tensor:
    of_HQ = _rows(seed, layer, heads, query_Q).to(device)
    return _mix(of_HQ[:, :, None] + torch.from_numpy(np.asarray(key_K, np.int64)).to(device) * GOLDEN)


def _rows(seed: int, layer: int, heads: Indices, query_Q: Indices) -> torch.Tensor:
    base = _mix(torch.tensor([seed], dtype=torch.int64) * GOLDEN + layer)
    of_H = _mix(base + torch.from_numpy(np.asarray(heads, np.int64)) * GOLDEN)
    return _mix(of_H[:, None] + torch.from_numpy(np.asarray(query_Q, np.int64)) * GOLDEN)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, zeros coming in."""
    return (x >> by) & (2 ** (64 - by) - 1)


def _high(bits: torch.Tensor) -> torch.Tensor:
    """The upper 24 bits as a number in [0, 1)."""
    return _shifted(bits, 40).double() * 2.0**-24
