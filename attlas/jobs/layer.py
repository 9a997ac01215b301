"""One layer's answer, from the sums of its blocks: quantities and similarities, with their errors.

Suffixes: H heads, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.jobs.documents import DocumentSums, DocumentValues, compute, join_documents
from attlas.jobs.features import Sums
from attlas.jobs.quantity import Quantity

__all__ = ["LayerSums", "LayerValues", "cosine", "layer_values"]

Floats = NDArray[np.float64]
_Values = dict[str, Floats]
_Quantities = tuple[Quantity, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSums:
    """Sums of a layer by jackknife group, and of a sample what each replicate adds; the Gram matrix likewise."""

    groups: Sums
    replicates: Sums
    gram_HH: Floats
    gram_UHH: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerValues:
    """The quantities of one layer.

    values, errors, degrees_of_freedom, document_errors: name -> (H, ...), or (1, ...), of all documents together: the
    quantity, the standard error of the sample with its degrees of freedom, and that of documents as a sample of texts.
    similarity_HH: cosine similarity of heads; NaN where no measure gave their Gram matrix.
    """

    values: dict[str, Floats]
    errors: dict[str, Floats]
    degrees_of_freedom: dict[str, Floats]
    document_errors: dict[str, Floats]
    documents: DocumentValues
    similarity_HH: Floats
    similarity_errors_HH: Floats | None


def layer_values(
    quantities: _Quantities,
    document_quantities: _Quantities,
    sums: LayerSums,
    total: Sums,
    documents: tuple[Sequence[DocumentValues], Sequence[DocumentSums]] | None,
) -> LayerValues:
    """A layer's quantities. total: of all groups. documents: those whole in a block, and the sums of the others; None
    where there is one document, of which the total tells."""
    groups, replicates = len(sums.groups), len(sums.replicates)
    values = compute(quantities, total)
    estimated = tuple(quantity for quantity in quantities if quantity.errors)
    errors, degrees_of_freedom = (
        _replicate_errors(estimated, total.coarse(), sums.replicates) if replicates else ({}, {})
    )
    if documents is None:
        names = {quantity.name for quantity in document_quantities}
        of_documents = DocumentValues(
            document_U=np.zeros(1, dtype=np.int64),
            values={name: value for name, value in values.items() if name in names},
            errors={name: error[None] for name, error in errors.items() if name in names},
        )
    else:
        of_documents = join_documents(document_quantities, *documents)
    similarity_HH = cosine(sums.gram_HH)
    return LayerValues(
        values={name: value[0] for name, value in values.items()},
        errors=errors,
        degrees_of_freedom=degrees_of_freedom,
        document_errors=_jackknife_errors(estimated, total, sums.groups) if groups > 1 else {},
        documents=of_documents,
        similarity_HH=similarity_HH,
        similarity_errors_HH=np.sqrt(((cosine(sums.gram_HH + sums.gram_UHH) - similarity_HH) ** 2).sum(axis=0))
        if replicates
        else None,
    )


def cosine(gram_HH: Floats) -> Floats:
    """Cosine similarity (..., H, H) from sums over cells of A_h A_g."""
    norm = np.sqrt(np.diagonal(gram_HH, axis1=-2, axis2=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity: Floats = gram_HH / (norm[..., :, None] * norm[..., None, :])
    return similarity


def _replicate_errors(quantities: _Quantities, total: Sums, replicates: Sums) -> tuple[_Values, _Values]:
    """Standard errors of a sample, the root of the summed squares of what each replicate changes, and their degrees of
    freedom: as many as there are replicates, fewer where a few of these make the error (Satterthwaite 1946)."""
    replicated = compute(quantities, total.shifted(replicates))
    errors, degrees_of_freedom = {}, {}
    for name, value in compute(quantities, total).items():
        squared = (replicated[name] - value) ** 2
        summed, fourth = squared.sum(axis=0), (squared**2).sum(axis=0)
        errors[name] = np.sqrt(summed)
        with np.errstate(invalid="ignore", divide="ignore"):
            effective = np.clip(3 * summed**2 / fourth, 2, len(replicates))
        degrees_of_freedom[name] = np.where(fourth > 0, effective, len(replicates))
    return errors, degrees_of_freedom


def _jackknife_errors(quantities: _Quantities, total: Sums, groups: Sums) -> dict[str, Floats]:
    """Standard errors over documents: the jackknife that leaves out one group of them at a time."""
    count = len(groups)
    # leaving documents out tells nothing of a maximum
    means = tuple(quantity for quantity in quantities if quantity.sampled and quantity.of_documents)
    return {
        name: np.sqrt((count - 1) / count * ((value - value.mean(axis=0)) ** 2).sum(axis=0))
        for name, value in compute(means, total.shifted(groups, -1.0)).items()
    }
