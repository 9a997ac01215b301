"""Intervals of means over documents, by drawing whole documents again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap"]

Floats = NDArray[np.float64]

DRAWS = 10_000
"""Of documents."""
BATCH = 1_000_000
"""Numbers that are drawn at a time."""


def bootstrap(values: Floats, confidence: float, seed: int) -> tuple[Floats, Floats]:
    """Low and high end, of each column, of the mean of documents (the rows) drawn with replacement; NaN of one."""
    count = len(values)
    if count < 2:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    generator = np.random.default_rng(seed)
    flat = values.reshape(count, -1)
    means = np.concatenate([
        _shares(generator, min(draws, DRAWS - begin), count) @ flat
        for draws in [max(1, BATCH // count)] for begin in range(0, DRAWS, draws)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def _shares(generator: np.random.Generator, draws: int, count: int) -> Floats:
    """(draws, documents): how often each was drawn, as a share."""
    return generator.multinomial(count, np.full(count, 1 / count), size=draws) / count
