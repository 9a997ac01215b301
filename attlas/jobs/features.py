"""What is summed over rows: a vector of features a head, and one that no head changes.

Everything that analyses tell is a function of these sums: blocks, documents, samples and replicates are all alike.

Suffixes: U units (documents, groups of them, replicates), H heads, F features of a head, P plain features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attlas.engine.kernels.histogram import FINE_BINS
from attlas.engine.kernels.survey import REACH

__all__ = ["LOCAL", "OFFSETS", "SCALARS", "Features", "Sums", "joined"]

Floats = NDArray[np.float64]

LOCAL = 8
"""A weight is local where the key is at most this many tokens away."""

COARSE_BINS = 128

OFFSETS = tuple(range(-REACH, REACH + 1))

SCALARS = (
    "entropy", "entropy_squared", "normalised_entropy", "effective_support", "mass", "squared", "maximum", "first",
    "self", "previous", "special", "separator", "distance", "variance", "sink", "own", "before", "marked",
    "duplicate", "induction", "local",
)  # fmt: skip
PLAIN = (
    "rows", "choices", "cells", "previous_rows", "previous_uniform", "self_rows", "self_uniform", "sink_rows",
    "sink_uniform", "separator_rows", "separator_uniform", "duplicate_rows", "duplicate_uniform", "induction_rows",
    "induction_uniform", "local_rows", "local_uniform", "positional_uniform",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Where each feature lies on the last axis. thresholds: weights below each are counted. edges: of the distance
    bins, T + 1 of them. bins: of the histogram. masses: whether the
    weights of each bin are added up too."""

    thresholds: tuple[float, ...]
    edges: tuple[int, ...]
    bins: int = FINE_BINS
    masses: bool = False

    @property
    def parts(self) -> dict[str, int]:
        """name -> how many places it takes."""
        sizes = dict.fromkeys(SCALARS, 1)
        return sizes | {
            "offset": len(OFFSETS),
            "argmax_offset": len(OFFSETS),
            "by_distance": len(self.edges) - 1,
            "below": len(self.thresholds),
            "counts": self.bins,
            "masses": self.bins if self.masses else 0,
        }

    @property
    def size(self) -> int:
        return sum(self.parts.values())

    @property
    def plain_size(self) -> int:
        return len(PLAIN) + 2 * len(OFFSETS)

    def place(self, name: str) -> slice:
        begin = 0
        for part, size in self.parts.items():
            if part == name:
                return slice(begin, begin + size)
            begin += size
        raise KeyError(name)

    @property
    def coarse(self) -> Features:
        """The same with COARSE_BINS, which is enough to see how a sample scatters."""
        return replace(self, bins=min(self.bins, COARSE_BINS), masses=False)

    @staticmethod
    def plain_place(name: str) -> slice:
        if name in PLAIN:
            return slice(PLAIN.index(name), PLAIN.index(name) + 1)
        begin = len(PLAIN) + len(OFFSETS) * ("offset_rows", "offset_uniform").index(name)
        return slice(begin, begin + len(OFFSETS))


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
        """A feature (U, H), or (U, H, places) where it takes several."""
        place = self.features.place(name)
        return self.heads_UHF[..., place.start] if place.stop - place.start == 1 and name in SCALARS else (
            self.heads_UHF[..., place]
        )  # fmt: skip

    def plain(self, name: str) -> Floats:
        """A plain feature (U, 1), which divides a feature of heads; (U, 1, offsets) for those of offsets."""
        found = self.plain_UP[..., self.features.plain_place(name)]
        return found[..., None, :] if name.startswith("offset_") else found

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
        features, place = self.features.coarse, self.features.place("counts")
        if features.bins == self.features.bins:
            return self
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

    @property
    def nbytes(self) -> int:
        return self.heads_UHF.nbytes + self.plain_UP.nbytes


def joined(parts: Sequence[Sums]) -> Sums:
    """Units of several sums one after the other."""
    return Sums(
        features=parts[0].features,
        heads_UHF=np.concatenate([part.heads_UHF for part in parts]),
        plain_UP=np.concatenate([part.plain_UP for part in parts]),
        largest_UH=np.concatenate([part.largest_UH for part in parts]),
    )
