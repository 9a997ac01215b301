"""The reduction that most questions are: features of rows, their sums, and quantities of the sums with their errors.

What the rows are read for is a `RowMeasure`; what is told of the sums are `Quantity` values; samples, replicates,
documents and the jackknife over them are the same for all.

Suffixes: H heads, R rows, F features of a head, P plain features, X groups of rows, B bins, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.jobs.blocks import Block, Drawn
from attlas.jobs.documents import DocumentSums, DocumentValues, split_documents
from attlas.jobs.features import Features, Sums
from attlas.jobs.layer import LayerSums, LayerValues, layer_values
from attlas.jobs.load import Source
from attlas.jobs.quantity import Quantity

__all__ = ["BlockSums", "RowMeasure", "RowSums", "RowValues"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

OWN = 2**20
"""More than the replicates of a document, to number those of all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowValues:
    """What a measure finds in a block.

    heads_HRF: features of a head, float64, without the histogram; plain_RP: plain features. largest_HR: the row's
    largest weight. count_XHB, mass_XHB: the histogram and the sums of its weights, of each of the block's documents, or
    of each row of a sample. gram_HH: sum over cells of A_h A_g; gram_RHH the same of each row of a sample.
    """

    heads_HRF: Floats
    plain_RP: Floats
    largest_HR: Floats | None = None
    count_XHB: NDArray[Any] | None = None
    mass_XHB: Floats | None = None
    gram_HH: Floats | None = None
    gram_RHH: NDArray[np.float32] | None = None


class RowMeasure(Protocol):
    """How rows become features; tasks carry it, so it pickles."""

    @property
    def features(self) -> Features:
        """What it finds of each row."""

    def measure(self, source: Source, block: Block) -> RowValues:
        """Read a block's rows, and measure them."""


@dataclass(slots=True, kw_only=True, eq=False)
class BlockSums:
    """Sums of one block by jackknife group from number `group` on and, of a sample, by replicate from number
    `replicate` on; the quantities of documents that lie whole in it, and the sums of those that do not.

    gram_HH, gram_replicates_UHH: the heads' Gram matrix.
    """

    group: int
    groups: Sums
    gram_HH: Floats | None
    whole: DocumentValues
    cut: DocumentSums
    replicate: int = 0
    replicates: Sums | None = None
    gram_replicates_UHH: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSums:
    """A question of rows, decided; see `reduction.Reduction`.

    quantities: of all documents together; document_quantities: of each. of_packs: puts what is stored of whole packs
    into a layer's sums, by its place on the store's layer dimension, and returns the Gram matrix. groups, replicates:
    how many jackknife groups and replicates there are. one_document: what is told of it is told of all.
    """

    measure: RowMeasure
    quantities: tuple[Quantity, ...]
    document_quantities: tuple[Quantity, ...]
    groups: int
    replicates: int
    one_document: bool = False
    of_packs: Callable[[Source, int, Sums], Floats] | None = None

    def reduce(self, source: Source, block: Block) -> BlockSums:
        """The sums of one block."""
        rows = self.measure.measure(source, block)
        features, drawn = self.measure.features, block.drawn
        if drawn is not None:
            return self._sampled(block, drawn, rows)
        documents = _by_unit(features, rows, None, block.document_R, len(block.group_D))
        if rows.count_XHB is not None:
            documents.heads_UHF[:, :, features.place("counts")] = rows.count_XHB
        if rows.mass_XHB is not None:
            documents.heads_UHF[:, :, features.place("masses")] = rows.mass_XHB
        whole, cut = split_documents(self.document_quantities, block, documents, None, None)
        return BlockSums(
            group=int(block.group_D[0]), groups=_grouped(documents, block.group_D), whole=whole, cut=cut,
            gram_HH=rows.gram_HH,
        )  # fmt: skip

    def join(self, parts: Sequence[BlockSums], source: Source, layer: int) -> LayerValues:
        """The quantities of a layer."""
        heads = parts[0].groups.heads_UHF.shape[1]
        features = self.measure.features
        sums = LayerSums(
            groups=Sums.zeros(features, self.groups, heads),
            replicates=Sums.zeros(features.coarse, self.replicates, heads),
            gram_HH=np.zeros((heads, heads)), gram_UHH=np.zeros((self.replicates, heads, heads)),
        )  # fmt: skip
        for part in parts:
            sums.groups.add(part.groups, part.group)
            if part.gram_HH is not None:
                sums.gram_HH[...] += part.gram_HH
            if part.replicates is not None:
                sums.replicates.add(part.replicates, part.replicate)
            if part.gram_replicates_UHH is not None:
                sums.gram_UHH[part.replicate : part.replicate + len(part.gram_replicates_UHH)] += (
                    part.gram_replicates_UHH
                )
        total = sums.groups.total()
        if self.of_packs is not None:
            sums.gram_HH[...] = self.of_packs(source, layer, total)
        documents = None if self.one_document else ([part.whole for part in parts], [part.cut for part in parts])
        return layer_values(self.quantities, self.document_quantities, sums, total, documents)

    def _sampled(self, block: Block, drawn: Drawn, rows: RowValues) -> BlockSums:
        """Weighted sums, and what replicates add to them."""
        features = self.measure.features
        counts, document_R = rows.count_XHB, block.document_R
        coarse = features.coarse
        coarse_counts = (
            None if counts is None
            else counts.reshape(*counts.shape[:2], coarse.bins, -1).sum(axis=3, dtype=np.int32)
        )  # fmt: skip

        def summed(scale_R: Floats, unit_R: Indices, units: int, *, of: Features = coarse) -> Sums:
            sums = _by_unit(of, rows, scale_R, unit_R, units)
            if counts is not None and coarse_counts is not None:
                counted = counts if of is features else coarse_counts
                sums.heads_UHF[:, :, of.place("counts")] = _segments(counted, scale_R, unit_R, units)
            return sums

        documents = summed(drawn.weight_R, document_R, len(block.group_D), of=features)
        paired = drawn.replicate_R >= 0
        first = int(drawn.replicate_R[paired].min()) if paired.any() else 0
        amplitude_R = np.where(paired, drawn.amplitude_R, 0.0)
        unit_R = np.maximum(drawn.replicate_R - first, 0)
        # a certain row between two strata belongs to no replicate; it adds nothing to that of its neighbour
        unit_R = np.maximum.accumulate(unit_R)
        units = int(unit_R[-1]) + 1
        own = own_of = None
        if drawn.by_document and not self.one_document:
            key_R = np.maximum.accumulate(document_R * OWN + np.maximum(drawn.own_R, 0))
            keys, own_R = np.unique(key_R, return_inverse=True)
            own, own_of = summed(amplitude_R, own_R, len(keys)), (keys // OWN, keys % OWN)
        whole, cut = split_documents(self.document_quantities, block, documents, own, own_of)
        gram = rows.gram_RHH
        return BlockSums(
            group=int(block.group_D[0]), groups=_grouped(documents, block.group_D), whole=whole, cut=cut,
            replicate=first, replicates=summed(amplitude_R, unit_R, units),
            gram_HH=None if gram is None else np.tensordot(drawn.weight_R, gram.astype(np.float64), axes=1),
            gram_replicates_UHH=None if gram is None else _segments(gram, amplitude_R, unit_R, units),
        )  # fmt: skip


def _segments(values_R: NDArray[Any], scale_R: Floats, unit_R: Indices, units: int) -> Floats:
    """(units, ...): sums of scaled rows by unit."""
    spread_UR = torch.zeros(units, len(unit_R), dtype=torch.float64)
    spread_UR[torch.from_numpy(unit_R), torch.arange(len(unit_R))] = torch.from_numpy(scale_R)
    flat_RX = torch.from_numpy(values_R.reshape(len(unit_R), -1)).double()
    summed: Floats = (spread_UR @ flat_RX).numpy().reshape(units, *values_R.shape[1:])
    return summed


def _by_unit(features: Features, rows: RowValues, scale_R: Floats | None, unit_R: Indices, units: int) -> Sums:
    """Sums of all features but the histogram by unit; unit_R ascends."""
    sums = Sums.zeros(features, units, rows.heads_HRF.shape[0])
    edges = np.searchsorted(unit_R, np.arange(units + 1))
    some = np.flatnonzero(edges[1:] > edges[:-1])
    begin = edges[some]
    scaled = rows.heads_HRF if scale_R is None else rows.heads_HRF * scale_R[:, None]
    plain = rows.plain_RP if scale_R is None else rows.plain_RP * scale_R[:, None]
    sums.heads_UHF[some, :, : features.small] = np.add.reduceat(scaled, begin, axis=1).transpose(1, 0, 2)
    sums.plain_UP[some] = np.add.reduceat(plain, begin, axis=0)
    if rows.largest_HR is not None:
        sums.largest_UH[some] = np.maximum.reduceat(rows.largest_HR, begin, axis=1).T
    return sums


def _grouped(documents: Sums, group_D: Indices) -> Sums:
    begin = np.flatnonzero(np.diff(group_D, prepend=group_D[0] - 1))
    return Sums(
        features=documents.features,
        heads_UHF=np.add.reduceat(documents.heads_UHF, begin, axis=0),
        plain_UP=np.add.reduceat(documents.plain_UP, begin, axis=0),
        largest_UH=np.maximum.reduceat(documents.largest_UH, begin, axis=0),
    )
