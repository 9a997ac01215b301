"""The row statistics: names, units and definitions, in one place. Kernels compute them, the store is labelled by them.

A statistic is a function of one query's weights `a` on its key interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HISTOGRAM_BINS",
    "STATISTICS",
    "Statistic",
    "gini_from_histogram",
    "histogram_edges",
    "statistic_names",
]

HISTOGRAM_BINS = 128
"""Bin 0 holds every weight below 2**(-127/4); bin b >= 1 holds [2**((b-128)/4), 2**((b-127)/4)); the last also 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One row statistic. `same_axis`: it relates a query to keys on its own token axis, which cross-attention lacks."""

    name: str
    definition: str
    units: str
    same_axis: bool = False
    sink_only: bool = False


STATISTICS: tuple[Statistic, ...] = (
    Statistic(name="entropy", definition="-sum(a ln a) over the key interval", units="nat"),
    Statistic(name="max_weight", definition="max(a)", units="1"),
    Statistic(name="argmax_key", definition="position of the key with the largest weight", units="token"),
    Statistic(name="first_weight", definition="weight on the document's first token", units="1"),
    Statistic(name="self_weight", definition="weight on the query's own position", units="1", same_axis=True),
    Statistic(name="previous_weight", definition="weight on the token before the query", units="1", same_axis=True),
    Statistic(name="mean_distance", definition="sum(a |i - j|)", units="token", same_axis=True),
    Statistic(name="squared_sum", definition="sum(a^2)", units="1"),
    Statistic(name="special_weight", definition="weight on special tokens", units="1"),
    Statistic(
        name="duplicate_weight", definition="weight on earlier copies of the query's token", units="1", same_axis=True
    ),
    Statistic(
        name="induction_weight",
        definition="weight on tokens that follow an earlier copy of the query's token",
        units="1",
        same_axis=True,
    ),
    Statistic(name="sink_residual", definition="1 - sum(a), the share of the sink logit", units="1", sink_only=True),
)


def statistic_names(*, same_axis: bool, sinks: bool) -> tuple[str, ...]:
    """The statistics that have a meaning for a kind of attention.

    same_axis: queries and keys lie on one token axis. sinks: some layer has a sink logit.
    """
    return tuple(s.name for s in STATISTICS if (same_axis or not s.same_axis) and (sinks or not s.sink_only))


def gini_from_histogram(count_XB: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gini coefficient (...) of the weights counted in a histogram (..., B); NaN where it is empty.

    Each weight stands at the geometric middle of its bin, which a bin of a quarter octave bounds: on real attention the
    result is within 2e-3 of that of the sorted weights.
    """
    middle_B = 2.0 ** ((np.arange(HISTOGRAM_BINS) - HISTOGRAM_BINS + 0.5) / 4)
    mass_XB = np.cumsum(count_XB * middle_B, axis=-1)
    before_XB = np.concatenate([np.zeros_like(mass_XB[..., :1]), mass_XB[..., :-1]], axis=-1)
    cells, total = count_XB.sum(axis=-1), mass_XB[..., -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = 1 - (count_XB * (mass_XB + before_XB)).sum(axis=-1) / (cells * total)
    return found


def histogram_edges() -> NDArray[np.float64]:
    """The HISTOGRAM_BINS + 1 edges of the weight histogram, from 0 to 1."""
    edges = 2.0 ** ((np.arange(HISTOGRAM_BINS + 1) - HISTOGRAM_BINS) / 4)
    edges[0] = 0.0
    return edges
