"""Histograms of weights: their bins, and what is read off them.

Suffixes: B bins, X any leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FINE_BINS",
    "HISTOGRAM_BINS",
    "OCTAVES",
    "gini_from_histogram",
    "histogram_edges",
    "quantiles_from_histogram",
    "share_below",
]

HISTOGRAM_BINS = 128
"""Bin 0 holds every weight below 2**(-127/4); bin b >= 1 holds [2**((b-128)/4), 2**((b-127)/4)); the last also 1."""

OCTAVES = 32
"""Every histogram covers weights down to 2**-32, in as many bins to an octave as its size says."""

FINE_BINS = 1024
"""Bins of the histogram that analyses count, 32 to an octave."""


def gini_from_histogram(count_XB: NDArray[Any], mass_XB: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Gini coefficient (...) of the weights counted in a histogram (..., B); NaN where it is empty.

    mass_XB: the sum of the weights in each bin; without it each weight stands at the geometric middle of its bin. On
    real attention the result is within 2e-3 of that of the sorted weights for HISTOGRAM_BINS, and within 1e-5 for
    FINE_BINS with their sums.
    """
    bins = count_XB.shape[-1]
    if mass_XB is None:
        mass_XB = count_XB * 2.0 ** ((np.arange(bins) - bins + 0.5) * OCTAVES / bins)
    sums_XB = np.cumsum(mass_XB, axis=-1)
    before_XB = np.concatenate([np.zeros_like(sums_XB[..., :1]), sums_XB[..., :-1]], axis=-1)
    cells, total = count_XB.sum(axis=-1), sums_XB[..., -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = 1 - (count_XB * (sums_XB + before_XB)).sum(axis=-1) / (cells * total)
    return found


def quantiles_from_histogram(count_XB: NDArray[Any], levels: Sequence[float]) -> NDArray[np.float64]:
    """Weights (..., levels) below which a share `level` of the counted weights lies; NaN where nothing is counted.

    Interpolated within a bin on the logarithm of the weight, so wrong by less than a bin: a factor of 2**(OCTAVES / B).
    A quantile in the lowest bin, below 2**-32, is 0.
    """
    bins = count_XB.shape[-1]
    sums_XB = np.cumsum(count_XB, axis=-1, dtype=np.float64)
    found = np.full((*count_XB.shape[:-1], len(levels)), np.nan)
    for i, level in enumerate(levels):
        wanted_X = level * sums_XB[..., -1]
        bin_X = np.minimum((sums_XB < wanted_X[..., None]).sum(axis=-1), bins - 1)
        count_X = np.take_along_axis(count_XB, bin_X[..., None], axis=-1)[..., 0]
        before_X = np.take_along_axis(sums_XB, bin_X[..., None], axis=-1)[..., 0] - count_X
        with np.errstate(invalid="ignore", divide="ignore"):
            inside_X = np.clip((wanted_X - before_X) / count_X, 0, 1)
        value_X = 2.0 ** ((bin_X + inside_X - bins) * OCTAVES / bins)
        found[..., i] = np.where(sums_XB[..., -1] > 0, np.where(bin_X == 0, 0.0, value_X), np.nan)
    return found


def share_below(count_XB: NDArray[Any], thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Share (..., thresholds) of the counted weights below each threshold, interpolated within the threshold's bin."""
    bins = count_XB.shape[-1]
    sums_XB = np.concatenate(
        [np.zeros((*count_XB.shape[:-1], 1)), np.cumsum(count_XB, axis=-1, dtype=np.float64)], axis=-1
    )
    place = np.clip(np.log2(np.asarray(thresholds, dtype=np.float64)) * bins / OCTAVES + bins, 0, bins)
    low = np.minimum(np.floor(place).astype(np.int64), bins - 1)
    inside = sums_XB[..., low] + (place - low) * (sums_XB[..., low + 1] - sums_XB[..., low])
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = inside / sums_XB[..., -1:]
    return found


def histogram_edges() -> NDArray[np.float64]:
    """The HISTOGRAM_BINS + 1 edges of the weight histogram, from 0 to 1."""
    edges = 2.0 ** ((np.arange(HISTOGRAM_BINS + 1) - HISTOGRAM_BINS) / 4)
    edges[0] = 0.0
    return edges
