"""How time and memory grow with length: the exponent of a power law."""

from __future__ import annotations

from collections.abc import Sequence

from attlas.bench.report import FIT_LEAST, fit_exponent

__all__ = ["FIT_LEAST_POINTS", "FIT_LEAST_TOKENS", "growth_exponent"]

FIT_LEAST_TOKENS = 1024
"""Shorter documents are left out: what a run costs at any length would flatten the line."""
FIT_LEAST_POINTS = FIT_LEAST


def growth_exponent(tokens: Sequence[int], values: Sequence[float]) -> float | None:
    """b of the least-squares line log(value) = a + b log(tokens); None where too few lengths are fit for it."""
    fit = [(n, value) for n, value in zip(tokens, values, strict=True) if n >= FIT_LEAST_TOKENS]
    return fit_exponent([n for n, _ in fit], [value for _, value in fit])
