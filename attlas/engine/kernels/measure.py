"""What a kernel is asked to measure of a problem's rows, and what it found. Values.

Suffixes: H query heads, N query rows, V value features, B histogram bins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["TILE_BYTES", "Attended", "Measure", "RowStatistics"]

Indices = NDArray[np.int64]

TILE_BYTES = 32 * 2**20
"""The most that one score tile over all heads takes, unless told otherwise; the reference kernel holds about six at
once, and the CPU kernel cuts smaller ones, for its cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measure:
    """What to measure beside a layer's output, and of what.

    names: row statistics. heads, rows: the query heads and rows to measure, ascending; None for all, which is what a
    kernel does with the problem it is given: the door picks. tile_bytes: the most that a score tile of all heads takes.
    """

    names: tuple[str, ...] = ()
    histogram: bool = False
    head_gram: bool = False
    heads: Indices | None = None
    rows: Indices | None = None
    tile_bytes: int = TILE_BYTES

    @property
    def anything(self) -> bool:
        return bool(self.names) or self.histogram or self.head_gram


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowStatistics:
    """lse_HN: log-sum-exp with the sink logit, in nats. statistics: name -> (H, N). Both in the kernel's dtype.

    histogram_HB: int64 counts of the weights by `histogram_edges`; head_gram_HH: float64,
    sum over cells of A_h A_g. Both None unless asked for.
    """

    lse_HN: torch.Tensor
    statistics: dict[str, torch.Tensor] = field(default_factory=dict)
    histogram_HB: torch.Tensor | None = None
    head_gram_HH: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attended:
    """The layer's output out_NHV in the dtype of the values, and what was measured of its rows."""

    out_NHV: torch.Tensor
    rows: RowStatistics
