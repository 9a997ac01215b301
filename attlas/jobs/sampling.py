"""Which rows a sample takes: stratified, two rows a stratum, drawn by the seed and the layer alone.

Rows are laid end to end and cut into strata, within each document where the sample has room for it; two rows of each
are drawn. The half difference of a stratum's two rows estimates its share of the variance without bias,
which is what replicates carry (paired jackknife; Wolter, Introduction to Variance Estimation, 2007, chapter 4).

Suffixes: D documents, R drawn rows, S strata.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from attlas.errors import InputError

__all__ = ["LEAST", "REPLICATES", "Sample", "draw"]

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST = 8
"""Rows of each document that a sample must have room for before documents are told one by one."""

EARLY = 0.3

REPLICATES, DOCUMENT_REPLICATES = 64, 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Drawn rows, ascending.

    row_R: place on the rows of all documents laid end to end. weight_R: how many rows each stands for. amplitude_R: its
    part, with sign, of its stratum's half difference, finite-population correction included. replicate_R: the
    replicate that the stratum belongs to, of `replicates`; -1 for rows that are taken for sure. own_R: the same among
    the replicates of its document. by_document: whether strata lie within documents.
    """

    row_R: Indices
    weight_R: Floats
    amplitude_R: Floats
    replicate_R: Indices
    own_R: Indices
    replicates: int
    by_document: bool


def draw(rows_D: Indices, count: int, *, seed: int, kind: str, layer: int) -> Sample:
    """Draw about `count` rows of documents of rows_D rows each, for one layer.

    The number is rounded so that every stratum has two. Raises InputError where fewer than 4 are asked for.
    """
    if count < 4:
        raise InputError(f"a sample of {count} rows tells nothing of its error: take 4 or more")
    if count >= rows_D.sum():
        return _everything(rows_D)
    by_document = count >= LEAST * len(rows_D)
    sizes_D = rows_D if by_document else np.array([rows_D.sum()])
    begin_S, size_S, own_S, _ = _strata(sizes_D, count, documents=by_document)
    generator = np.random.default_rng([seed, zlib.crc32(kind.encode()), layer])
    one_S = np.floor(generator.random(len(size_S)) * size_S).astype(np.int64)
    other_S = np.floor(generator.random(len(size_S)) * (size_S - 1)).astype(np.int64)
    other_S += other_S >= one_S
    sign_S = generator.integers(0, 2, len(size_S)) * 2 - 1
    paired_S = size_S > 1
    strata = int(paired_S.sum())
    replicates = max(1, min(strata, REPLICATES))
    ordinal_S = np.cumsum(paired_S) - 1
    replicate_S = np.where(paired_S, ordinal_S * replicates // max(strata, 1), -1)
    half_S = np.sqrt(1 - np.minimum(2 / size_S, 1)) * size_S / 2 * sign_S
    row = np.concatenate([begin_S + one_S, (begin_S + other_S)[paired_S]])
    first_weight = np.where(paired_S, size_S / 2, 1.0)
    parts = (
        np.concatenate([first_weight, (size_S / 2)[paired_S]]),
        np.concatenate([np.where(paired_S, half_S, 0.0), -half_S[paired_S]]),
        np.concatenate([replicate_S, replicate_S[paired_S]]),
        np.concatenate([np.where(paired_S, own_S, -1), own_S[paired_S]]),
    )
    order = np.argsort(row, kind="stable")
    weight, amplitude, replicate, own = (part[order] for part in parts)
    return Sample(
        row_R=row[order], weight_R=weight, amplitude_R=amplitude, replicate_R=replicate, own_R=own,
        replicates=replicates, by_document=by_document,
    )  # fmt: skip


def _everything(rows_D: Indices) -> Sample:
    rows = int(rows_D.sum())
    none = np.full(rows, -1, dtype=np.int64)
    return Sample(
        row_R=np.arange(rows), weight_R=np.ones(rows), amplitude_R=np.zeros(rows), replicate_R=none, own_R=none,
        replicates=1, by_document=True,
    )  # fmt: skip


def _strata(sizes_D: Indices, count: int, *, documents: bool) -> tuple[Indices, Indices, Indices, Indices]:
    """Begin, size, replicate within its document, and document of each stratum; documents share `count` by size."""
    pairs_D = np.rint(count * sizes_D / sizes_D.sum() / 2).astype(np.int64)
    pairs_D = np.clip(pairs_D, np.minimum(2, sizes_D), np.maximum(sizes_D // 2, 1))
    edges = [_edges(int(size), int(pairs), documents) for size, pairs in zip(sizes_D, pairs_D, strict=True)]
    strata_D = np.array([len(edge) - 1 for edge in edges])
    document_S = np.repeat(np.arange(len(sizes_D)), strata_D)
    ordinal_S = np.arange(len(document_S)) - np.repeat(np.cumsum(strata_D) - strata_D, strata_D)
    own_S = ordinal_S * np.minimum(strata_D, DOCUMENT_REPLICATES)[document_S] // strata_D[document_S]
    start_S = np.repeat(np.cumsum(sizes_D) - sizes_D, strata_D)
    low_S = np.concatenate([edge[:-1] for edge in edges])
    return start_S + low_S, np.concatenate([np.diff(edge) for edge in edges]), own_S, document_S


@lru_cache(maxsize=4096)
def _edges(rows: int, strata: int, document: bool) -> Indices:
    """Edges of about so many strata of `rows` rows.

    A document's first rows see few keys, and differ from one another more than later rows do: EARLY of its strata are
    spaced evenly on the logarithm of the place, the others on the place, so that the first rows are strata of one row.
    """
    place = np.arange(rows + 1)
    share = place / rows
    if document:
        share = EARLY * np.log1p(place) / np.log1p(rows) + (1 - EARLY) * share
    more = strata
    for _ in range(8):  # edges that fall together leave fewer rows than were asked for
        edges = np.interp(np.linspace(0, 1, more + 1), share, place)
        whole = np.unique(np.rint(edges).astype(np.int64))
        short = min(2 * strata, rows) - int(np.minimum(np.diff(whole), 2).sum())
        if short < 2:
            break
        more += short // 2
    whole.flags.writeable = False
    return whole
