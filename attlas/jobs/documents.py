"""Quantities of single documents: computed within a block where they lie whole in it, behind it where they do not.

Suffixes: U documents or replicates, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.jobs.blocks import Block
from attlas.jobs.features import Sums, joined
from attlas.jobs.quantity import Quantity

__all__ = ["DocumentSums", "DocumentValues", "compute", "join_documents", "split_documents"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
_Quantities = tuple[Quantity, ...]

AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DocumentValues:
    """document_U: numbers in the corpus. values, errors: name -> (U, H, ...); errors only of a sample."""

    document_U: Indices
    values: dict[str, Floats]
    errors: dict[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DocumentSums:
    """Sums of documents, and of a sample those of their replicates: own_document, own_number say whose, and which."""

    document_U: Indices
    sums: Sums
    own: Sums | None
    own_document: Indices
    own_number: Indices


def compute(quantities: _Quantities, sums: Sums) -> dict[str, Floats]:
    """name -> (U, H, ...) of each."""
    return {quantity.name: quantity.compute(sums) for quantity in quantities}


def split_documents(
    quantities: _Quantities, block: Block, documents: Sums, own: Sums | None, own_of: tuple[Indices, Indices] | None
) -> tuple[DocumentValues, DocumentSums]:
    """The quantities of documents that are whole in the block; the sums of the others."""
    number, owner = (np.zeros(0, dtype=np.int64),) * 2 if own_of is None else (own_of[1], own_of[0])
    if block.drawn is not None and not block.drawn.by_document:  # too few rows of each to tell of it
        none = DocumentValues(document_U=np.zeros(0, dtype=np.int64), values={}, errors={})
        return none, _part(block, documents, own, owner, number, np.zeros(0, dtype=np.int64))
    whole = np.flatnonzero(block.whole_D)
    cut = np.flatnonzero(~block.whole_D)
    values = _values(quantities, _part(block, documents, own, owner, number, whole))
    return values, _part(block, documents, own, owner, number, cut)


def join_documents(
    quantities: _Quantities, whole: Sequence[DocumentValues], cut: Sequence[DocumentSums]
) -> DocumentValues:
    """All documents of a layer, in the order of the corpus."""
    known = list(whole)
    some = [part for part in cut if len(part.document_U)]
    if some:
        number_U = np.unique(np.concatenate([part.document_U for part in some]))
        sums = Sums.zeros(some[0].sums.features, len(number_U), some[0].sums.heads_UHF.shape[1])
        for part in some:
            for i, document in enumerate(part.document_U):
                sums.add(part.sums.take(slice(i, i + 1)), int(np.searchsorted(number_U, document)))
        known.append(_values(quantities, _joined(sums, number_U, some)))
    known = [part for part in known if len(part.document_U)]
    if not known:
        return DocumentValues(document_U=np.zeros(0, dtype=np.int64), values={}, errors={})
    document_U = np.concatenate([part.document_U for part in known])
    order = np.argsort(document_U)
    return DocumentValues(
        document_U=document_U[order],
        values={name: np.concatenate([part.values[name] for part in known])[order] for name in known[0].values},
        errors={name: np.concatenate([part.errors[name] for part in known])[order] for name in known[0].errors},
    )


def _joined(sums: Sums, number_U: Indices, parts: Sequence[DocumentSums]) -> DocumentSums:
    owned = [part.own for part in parts if part.own is not None]
    if not owned:
        none = np.zeros(0, dtype=np.int64)
        return DocumentSums(document_U=number_U, sums=sums, own=None, own_document=none, own_number=none)
    pair = np.stack(
        [np.concatenate([getattr(part, name) for part in parts]) for name in ("own_document", "own_number")]
    )
    keys, place = np.unique(pair, axis=1, return_inverse=True)
    every = joined(owned)
    own = Sums.zeros(every.features, keys.shape[1], every.heads_UHF.shape[1])
    for i, unit in enumerate(place.ravel()):
        own.add(every.take(slice(i, i + 1)), int(unit))
    return DocumentSums(document_U=number_U, sums=sums, own=own, own_document=keys[0], own_number=keys[1])


def _part(
    block: Block, documents: Sums, own: Sums | None, owner: Indices, number: Indices, chosen: Indices
) -> DocumentSums:
    mine = np.flatnonzero(np.isin(owner, chosen))
    return DocumentSums(
        document_U=chosen + block.first, sums=documents.take(chosen), own=None if own is None else own.take(mine),
        own_document=owner[mine] + block.first, own_number=number[mine],
    )  # fmt: skip


def _values(quantities: _Quantities, documents: DocumentSums) -> DocumentValues:
    """Quantities and standard errors, AT_ONCE documents at a time."""
    values: list[dict[str, Floats]] = []
    errors: list[dict[str, Floats]] = []
    for begin in range(0, len(documents.document_U), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        sums, number_U = documents.sums.take(part), documents.document_U[part]
        values.append(compute(quantities, sums))
        if documents.own is not None:
            errors.append(_errors(quantities, documents, sums, number_U))
    return DocumentValues(document_U=documents.document_U, values=_stacked(values), errors=_stacked(errors))


def _errors(quantities: _Quantities, documents: DocumentSums, sums: Sums, number_U: Indices) -> dict[str, Floats]:
    assert documents.own is not None
    mine = np.flatnonzero(np.isin(documents.own_document, number_U))
    unit = np.searchsorted(number_U, documents.own_document[mine])
    coarse = sums.coarse()
    replicated = compute(quantities, coarse.take(unit).shifted(documents.own.take(mine)))
    out = {}
    for name, value in compute(quantities, coarse).items():
        squared = np.zeros_like(value)
        np.add.at(squared, unit, (replicated[name] - value[unit]) ** 2)
        out[name] = np.sqrt(squared)
    return out


def _stacked(parts: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
