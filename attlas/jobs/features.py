"""What is summed over rows: a vector of features a head, and one that no head changes.

Everything that analyses tell is a function of these sums: blocks, documents, samples and replicates are all alike.

Suffixes: U units (documents, groups of them, replicates), H heads, F features of a head, P plain features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["COARSE_BINS", "Features", "Sums", "joined", "ratio"]

Floats = NDArray[np.float64]

COARSE_BINS = 128
"""Bins of a histogram that is enough to see how a sample scatters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Names, and so where each feature lies on the last axis.

    heads: features of a head with one number each; head_vectors: those with several, and how many. plain,
    plain_vectors: the same of what no head changes; `rows`, the number of rows, is always among them. bins: of a
    histogram of weights, 0 for none; masses: whether the weights of each bin are added up too.
    """

    heads: tuple[str, ...]
    head_vectors: tuple[tuple[str, int], ...] = ()
    plain: tuple[str, ...] = ("rows",)
    plain_vectors: tuple[tuple[str, int], ...] = ()
    bins: int = 0
    masses: bool = False

    @property
    def parts(self) -> dict[str, int]:
        """name -> how many places it takes, of the features of a head."""
        sizes = dict.fromkeys(self.heads, 1) | dict(self.head_vectors)
        return sizes | ({"counts": self.bins} if self.bins else {}) | ({"masses": self.bins} if self.masses else {})

    @property
    def small(self) -> int:
        """Places of all features of a head but the histogram's, which lie first."""
        return len(self.heads) + sum(size for _, size in self.head_vectors)

    @property
    def size(self) -> int:
        return sum(self.parts.values())

    @property
    def plain_parts(self) -> dict[str, int]:
        return dict.fromkeys(self.plain, 1) | dict(self.plain_vectors)

    @property
    def plain_size(self) -> int:
        return sum(self.plain_parts.values())

    def place(self, name: str) -> slice:
        return _place(self.parts, name)

    def plain_place(self, name: str) -> slice:
        return _place(self.plain_parts, name)

    @property
    def coarse(self) -> Features:
        """The same with COARSE_BINS at most, and no masses."""
        return replace(self, bins=min(self.bins, COARSE_BINS), masses=False)


def _place(parts: dict[str, int], name: str) -> slice:
    begin = 0
    for part, size in parts.items():
        if part == name:
            return slice(begin, begin + size)
        begin += size
    raise KeyError(name)


@dataclass(slots=True, kw_only=True, eq=False)
class Sums:
    """Sums of features: heads_UHF, plain_UP, and the largest weight, which is a maximum and no sum."""

    features: Features
    heads_UHF: Floats
    plain_UP: Floats
    largest_UH: Floats

    @classmethod
    def zeros(cls, features: Features, units: int, heads: int) -> Sums:
        return cls(
            features=features,
            heads_UHF=np.zeros((units, heads, features.size)),
            plain_UP=np.zeros((units, features.plain_size)),
            largest_UH=np.full((units, heads), -np.inf),
        )

    def __len__(self) -> int:
        return len(self.plain_UP)

    def head(self, name: str) -> Floats:
        """A feature (U, H), or (U, H, places) of one with several."""
        place = self.features.place(name)
        return self.heads_UHF[..., place.start] if name in self.features.heads else self.heads_UHF[..., place]

    def plain(self, name: str) -> Floats:
        """A plain feature (U, 1), which divides a feature of heads; (U, 1, places) of one with several."""
        value = self.plain_UP[..., self.features.plain_place(name)]
        return value if name in self.features.plain else value[..., None, :]

    def add(self, other: Sums, at: int = 0) -> None:
        """Add other's units to those from `at` on."""
        units = slice(at, at + len(other))
        self.heads_UHF[units] += other.heads_UHF
        self.plain_UP[units] += other.plain_UP
        self.largest_UH[units] = np.maximum(self.largest_UH[units], other.largest_UH)

    def take(self, units: slice | NDArray[np.int64]) -> Sums:
        return Sums(
            features=self.features, heads_UHF=self.heads_UHF[units], plain_UP=self.plain_UP[units],
            largest_UH=self.largest_UH[units],
        )  # fmt: skip

    def coarse(self) -> Sums:
        """The same sums over a coarse histogram."""
        features = self.features.coarse
        if features.bins == self.features.bins:
            return self
        place = self.features.place("counts")
        counts = self.heads_UHF[..., place].reshape(*self.heads_UHF.shape[:2], features.bins, -1).sum(axis=-1)
        heads_UHF = np.concatenate([self.heads_UHF[..., : place.start], counts], axis=-1)
        return replace(self, features=features, heads_UHF=heads_UHF)

    def total(self) -> Sums:
        """All units together, as one."""
        return Sums(
            features=self.features,
            heads_UHF=self.heads_UHF.sum(axis=0, keepdims=True),
            plain_UP=self.plain_UP.sum(axis=0, keepdims=True),
            largest_UH=self.largest_UH.max(axis=0, keepdims=True),
        )

    def shifted(self, by: Sums, sign: float = 1.0) -> Sums:
        """One unit plus, or minus, each of other units: what replicates and jackknives look at."""
        return Sums(
            features=self.features,
            heads_UHF=self.heads_UHF + sign * by.heads_UHF,
            plain_UP=self.plain_UP + sign * by.plain_UP,
            largest_UH=np.broadcast_to(self.largest_UH, by.largest_UH.shape),
        )


def joined(parts: Sequence[Sums]) -> Sums:
    """Units of several sums one after the other."""
    return Sums(
        features=parts[0].features,
        heads_UHF=np.concatenate([part.heads_UHF for part in parts]),
        plain_UP=np.concatenate([part.plain_UP for part in parts]),
        largest_UH=np.concatenate([part.largest_UH for part in parts]),
    )


def ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom; NaN, "no such row", where bottom is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Floats = np.where(bottom > 0, top / bottom, np.nan)
    return quotient
