"""What a survey is asked: a value that tasks carry, and the name under which its answer is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.analysis.quantities import Quantity, Role, quantities_of, roles_of
from attlas.jobs.features import SCALARS, Features, Sums

__all__ = ["Question", "STORED_FEATURES"]

Floats = NDArray[np.float64]

STORED_FEATURES = frozenset(
    {
        "entropy", "maximum", "first", "self", "previous", "special", "distance", "squared", "duplicate", "induction",
        "mass", "sink", "own", "before",
    }
)  # fmt: skip
"""Features that stored row statistics give; histograms of whole packs give `counts` of all documents together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A survey's question.

    features: what is summed. levels: of the quantiles. stored: the sums come from stored row statistics. sampled: from
    a sample of the rows. counted: stored histograms are of exactly the chosen documents. one_document: what is told of
    it is told of all.
    """

    features: Features
    levels: tuple[float, ...]
    same_axis: bool
    stored: bool
    sampled: bool
    counted: bool = True
    one_document: bool = False

    def quantities(self, *, of_documents: bool = False) -> tuple[Quantity, ...]:
        """The statistics that can be told, of all documents together or of each."""
        if not self.stored:
            available = frozenset(self.features.parts)
        else:
            available = STORED_FEATURES | ({"counts"} if self.counted and not of_documents else frozenset())
        return quantities_of(same_axis=self.same_axis, available=available, sampled=self.sampled)

    def roles(self) -> tuple[Role, ...]:
        available = STORED_FEATURES if self.stored else frozenset(self.features.parts) | set(SCALARS)
        return roles_of(same_axis=self.same_axis, available=available)

    def values(self, sums: Sums, *, of_documents: bool = False) -> dict[str, Floats]:
        """name -> (U, H, ...) of every statistic."""
        return {
            quantity.name: quantity.compute(sums, self.levels)
            for quantity in self.quantities(of_documents=of_documents)
        }

    def scores(self, sums: Sums) -> dict[str, Floats]:
        """role -> (U, H)."""
        return {role.name: role.score(sums) for role in self.roles()}
