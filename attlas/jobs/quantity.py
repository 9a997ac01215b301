"""One number of every head, as a function of its sums: what a job computes, with the words that label it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.jobs.features import Sums, ratio

__all__ = ["MeanOverRows", "Quantity"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """compute: sums -> (U, H, ...), or (U, 1, ...) of what no head changes; it pickles, so it is a function of a module
    or a value with `__call__`. needs: features it is made of. dim: a further dimension. units: "" where it has none.

    same_axis: it relates a query to keys on its own token axis. sampled: whether a sample estimates it. errors: whether
    it has standard errors. of_documents: whether it is told of each document too. bound: how far from brute force,
    where it is not to rounding alone.
    """

    name: str
    definition: str
    units: str
    needs: tuple[str, ...]
    compute: Callable[[Sums], Floats]
    dim: str | None = None
    same_axis: bool = False
    sampled: bool = True
    errors: bool = True
    of_documents: bool = True
    bound: str = ""

    def is_given_by(self, available: frozenset[str], *, same_axis: bool, sampled: bool) -> bool:
        """Whether these features, of this kind of attention, give it."""
        return (
            set(self.needs) <= available and (same_axis or not self.same_axis) and (self.sampled or not sampled)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MeanOverRows:
    """The mean of a feature over the rows."""

    feature: str

    def __call__(self, sums: Sums) -> Floats:
        return ratio(sums.head(self.feature), sums.plain("rows"))
