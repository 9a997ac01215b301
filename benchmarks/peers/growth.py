"""How time and memory grow with length: the exponent of a power law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["FIT_LEAST_POINTS", "FIT_LEAST_TOKENS", "growth_exponent"]

FIT_LEAST_TOKENS = 1024
"""Shorter documents are left out: what a run costs at any length would flatten the line."""
FIT_LEAST_POINTS = 3


def growth_exponent(tokens: Sequence[int], values: Sequence[float]) -> float | None:
    """b of the least-squares line log(value) = a + b log(tokens); None where too few lengths are fit for it."""
    fit = [(n, value) for n, value in zip(tokens, values, strict=True) if n >= FIT_LEAST_TOKENS and value > 0]
    if len({n for n, _ in fit}) < FIT_LEAST_POINTS:
        return None
    x, y = np.log(np.array(fit, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])
