"""Random numbers that belong to a cell: the same for a seed, layer, head, query and key, however the work is cut.

A counter-based generator: two rounds of splitmix64's finaliser (Steele et al. 2014, doi 10.1145/2714064.2660195) of
the cell's number; normal ones by Box and Muller 1958.

Suffixes: H heads, Q queries, K keys.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["normal", "uniform"]

Indices = NDArray[np.int64]

GOLDEN, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Splitmix64's constants, as torch's signed numbers."""


def uniform(seed: int, layer: int, heads: Indices, query_Q: Indices, key_K: Indices) -> torch.Tensor:
    """(H, Q, K) float32 in [0, 1)."""
    return _high(_cells(seed, layer, heads, query_Q, key_K)).float()


def normal(seed: int, layer: int, heads: Indices, query_Q: Indices, key_K: Indices) -> torch.Tensor:
    """(H, Q, K) float32, of mean 0 and variance 1."""
    bits = _cells(seed, layer, heads, query_Q, key_K)
    one = 1 - _high(bits)  # in (0, 1]
    other = (bits & 0xFFFFFF).double() * 2.0**-24
    return (torch.sqrt(-2 * torch.log(one)) * torch.cos(2 * math.pi * other)).float()


def _cells(seed: int, layer: int, heads: Indices, query_Q: Indices, key_K: Indices) -> torch.Tensor:
    base = _mix(torch.tensor([seed], dtype=torch.int64) * GOLDEN + layer)
    of_H = _mix(base + torch.from_numpy(np.asarray(heads, np.int64)) * GOLDEN)
    of_HQ = _mix(of_H[:, None] + torch.from_numpy(np.asarray(query_Q, np.int64)) * GOLDEN)
    return _mix(of_HQ[:, :, None] + torch.from_numpy(np.asarray(key_K, np.int64)) * GOLDEN)


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
