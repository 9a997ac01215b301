"""One layer's answer, from the parts of its blocks: statistics, roles and similarities, with their errors.

Suffixes: H heads, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.analysis.documents import DocumentValues, join_documents
from attlas.analysis.measure import Part
from attlas.analysis.quantities import FAR, best_offset, offset_scores
from attlas.analysis.question import Question
from attlas.jobs.features import OFFSETS, Sums
from attlas.jobs.load import Source

__all__ = ["LayerAnswer", "cosine", "finish_layer"]

Floats = NDArray[np.float64]
_Values = dict[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerAnswer:
    """One layer, told.

    values, errors, freedoms, document_errors: name -> (H, ...) of all documents together: the statistic, the standard
    error of the sample with its degrees of freedom, and that of documents as a sample of texts.
    scores, score_errors: role -> (H,); baselines, role_rows: role -> (1,).
    offset_H: the fixed offset with the largest weight. similarity_HH: cosine similarity of heads.
    """

    values: dict[str, Floats]
    errors: dict[str, Floats]
    freedoms: dict[str, Floats]
    document_errors: dict[str, Floats]
    documents: DocumentValues
    scores: dict[str, Floats]
    score_errors: dict[str, Floats]
    baselines: dict[str, Floats]
    role_rows: dict[str, Floats]
    offset_H: NDArray[np.int64] | None
    similarity_HH: Floats
    similarity_errors_HH: Floats | None


def finish_layer(
    parts: Sequence[Part],
    source: Source,
    kind: str,
    layer: int,
    packs: tuple[int, ...],
    question: Question,
    units: tuple[int, int],
) -> LayerAnswer:
    """Join the parts of a layer. units: how many jackknife groups, and replicates, there are."""
    groups, replicates = units
    heads = parts[0].groups.heads_UHF.shape[1]
    grouped = Sums.zeros(question.features, groups, heads)
    moved = Sums.zeros(question.features.coarse, replicates, heads)
    gram_HH = np.zeros((heads, heads))
    gram_UHH = np.zeros((replicates, heads, heads))
    for part in parts:
        grouped.add(part.groups, part.group)
        if part.gram_HH is not None:
            gram_HH += part.gram_HH
        if part.replicates is not None and part.gram_replicates_UHH is not None:
            moved.add(part.replicates, part.replicate)
            gram_UHH[part.replicate : part.replicate + len(part.replicates)] += part.gram_replicates_UHH
    total = grouped.total()
    if question.stored and question.counted:
        gram_HH = _stored_sums(source, kind, layer, packs, total)
    values, scores = question.values(total), question.scores(total)
    similarity_HH = cosine(gram_HH)
    sampled, still = replicates > 0, total.coarse()
    errors, freedoms = _spread(question.values, still, moved) if sampled else ({}, {})
    if question.one_document:
        documents = DocumentValues(
            document_U=np.zeros(1, dtype=np.int64), values=values, errors={n: e[None] for n, e in errors.items()}
        )
    else:
        documents = join_documents(question, [part.whole for part in parts], [part.cut for part in parts])
    fixed = None
    if any(role.name == "offset" for role in question.roles()):
        fixed = np.array(OFFSETS)[best_offset(offset_scores(total), FAR)][0]
    return LayerAnswer(
        values=_first(values),
        errors=errors,
        freedoms=freedoms,
        document_errors=_left_out(question.values, total, grouped) if groups > 1 else {},
        documents=documents,
        scores=_first(scores),
        score_errors=_spread(question.scores, still, moved)[0] if sampled else {},
        baselines=_first({role.name: role.baseline(total) for role in question.roles()}),
        role_rows=_first({role.name: role.rows(total) for role in question.roles()}),
        offset_H=fixed,
        similarity_HH=similarity_HH,
        similarity_errors_HH=np.sqrt(((cosine(gram_HH + gram_UHH) - similarity_HH) ** 2).sum(axis=0))
        if sampled
        else None,
    )


def cosine(gram_HH: Floats) -> Floats:
    """Cosine similarity (..., H, H) from sums over cells of A_h A_g."""
    norm = np.sqrt(np.diagonal(gram_HH, axis1=-2, axis2=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = gram_HH / (norm[..., :, None] * norm[..., None, :])
    return found


def _stored_sums(source: Source, kind: str, layer: int, packs: tuple[int, ...], total: Sums) -> Floats:
    """Put the stored histograms of the packs into the sums; returns their Gram matrix."""
    place = np.array(packs)
    counts = np.asarray(source.array(f"{kind}/statistics/histogram").oindex[place, layer : layer + 1])
    total.heads_UHF[0][:, total.features.place("counts")] = counts.sum(axis=(0, 1))
    return np.asarray(source.array(f"{kind}/statistics/head_gram").oindex[place, layer : layer + 1]).sum(axis=(0, 1))


def _first(values: dict[str, Floats]) -> dict[str, Floats]:
    return {name: value[0] for name, value in values.items()}


def _spread(tell: Callable[[Sums], dict[str, Floats]], total: Sums, moved: Sums) -> tuple[_Values, _Values]:
    """Standard errors of a sample, the root of the summed squares of what each replicate changes, and their degrees of
    freedom: as many as there are replicates, fewer where a few of these make the error (Satterthwaite 1946)."""
    found = tell(total.shifted(moved))
    errors, freedoms = {}, {}
    for name, value in tell(total).items():
        squared = (found[name] - value) ** 2
        summed, fourth = squared.sum(axis=0), (squared**2).sum(axis=0)
        errors[name] = np.sqrt(summed)
        with np.errstate(invalid="ignore", divide="ignore"):
            freedoms[name] = np.where(fourth > 0, np.clip(3 * summed**2 / fourth, 2, len(moved)), len(moved))
    return errors, freedoms


def _left_out(tell: Callable[[Sums], dict[str, Floats]], total: Sums, grouped: Sums) -> dict[str, Floats]:
    """Standard errors over documents: the jackknife that leaves out one group of them at a time."""
    groups = len(grouped)
    found = tell(total.shifted(grouped, -1.0))
    return {
        name: np.sqrt((groups - 1) / groups * ((value - value.mean(axis=0)) ** 2).sum(axis=0))
        for name, value in found.items()
        if name != "max_weight"  # not a mean: leaving documents out tells nothing of it
    }
