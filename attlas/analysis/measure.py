"""One task of a survey: read a block, call the kernel once, reduce what it finds to sums.

Suffixes: H heads, R rows, F features, P plain features, U units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attlas.analysis.documents import DocumentSums, DocumentValues, split_documents
from attlas.analysis.question import Question
from attlas.engine.kernels.door import survey
from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.kernels.survey import Survey, SurveyMeasure, copies
from attlas.jobs.blocks import Block
from attlas.jobs.features import LOCAL, OFFSETS, SCALARS, Features, Sums
from attlas.jobs.load import BlockRows, Source, load_problem, load_rows

__all__ = ["Part", "measure_block"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

STORED = {
    "entropy": "entropy", "maximum": "max_weight", "first": "first_weight", "self": "self_weight",
    "previous": "previous_weight", "special": "special_weight", "distance": "mean_distance", "squared": "squared_sum",
    "duplicate": "duplicate_weight", "induction": "induction_weight",
}  # fmt: skip
"""Feature -> the row statistic it is the sum of."""

OWN = 2**20
"""More than the replicates of a document, to number those of all."""


@dataclass(slots=True, kw_only=True, eq=False)
class Part:
    """What a block found: sums by jackknife group from number `group` on and, of a sample, by replicate from number
    `replicate` on; the statistics of documents that lie whole in it, and the sums of those that do not.

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


def measure_block(source: Source, block: Block, question: Question, workers: int) -> Part:
    """Sums of one block, from the stored row statistics, or from the factors through the kernel.

    workers: how many tasks run beside one another in this process; with several, each takes one thread.
    """
    threads = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return _measure(source, block, question)
    finally:
        torch.set_num_threads(threads)


def _measure(source: Source, block: Block, question: Question) -> Part:
    features, stored = question.features, question.stored
    rows = load_rows(source, block)
    plain_RP = _plain(block, rows, features)
    gram: Survey | None = None
    if stored:
        small_HRF, counts = _from_stored(source, block, rows, features), None
    else:
        gram = _through_kernel(source, block, rows, features)
        small_HRF, counts = _row_features(gram.rows_HN, gram, block, rows, features), gram.count_XHB
    maximum_HR = small_HRF[:, :, SCALARS.index("maximum")]
    if block.drawn is None:
        documents = _by_unit(features, small_HRF, plain_RP, maximum_HR, None, rows.document_R, len(block.group_D))
        if counts is not None:
            documents.heads_UHF[:, :, features.place("counts")] = counts
            documents.heads_UHF[:, :, features.place("masses")] = gram.mass_XHB if gram is not None else 0
        whole, cut = split_documents(question, block, documents, None, None)
        return Part(
            group=int(block.group_D[0]), groups=_grouped(documents, block.group_D), whole=whole, cut=cut,
            gram_HH=None if gram is None else gram.gram_HH,
        )  # fmt: skip
    assert gram is not None
    return _sampled(block, rows, question, small_HRF, plain_RP, gram)


def _through_kernel(source: Source, block: Block, rows: BlockRows, features: Features) -> Survey:
    problem, lse_HR = load_problem(source, block, rows)
    sampled = block.drawn is not None
    measure = SurveyMeasure(
        names=statistic_names(same_axis=block.documents.same_axis, sinks=problem.rule.sink_H is not None),
        marked_M=rows.separator_M, edges_T=np.array(features.edges, dtype=np.int64),
        limit_C=np.array(features.thresholds, dtype=np.float32),
        group_N=np.arange(len(block.row_R)) if sampled else rows.document_R,
        groups=len(block.row_R) if sampled else len(block.group_D), row_gram=sampled,
    )  # fmt: skip
    return survey(problem, lse_HR, measure)


def _sampled(
    block: Block, rows: BlockRows, question: Question, small_HRF: Floats, plain_RP: Floats, found: Survey
) -> Part:
    """Weighted sums, and what replicates add to them."""
    drawn, features = block.drawn, question.features
    assert drawn is not None
    assert found.gram_NHH is not None
    maximum_HR, counts = small_HRF[:, :, SCALARS.index("maximum")], found.count_XHB

    coarse = features.coarse
    coarse_counts = counts.reshape(*counts.shape[:2], coarse.bins, -1).sum(axis=3, dtype=np.int32)

    def summed(scale_R: Floats, unit_R: Indices, units: int, *, of: Features = coarse) -> Sums:
        sums = _by_unit(of, small_HRF, plain_RP, maximum_HR, scale_R, unit_R, units)
        counted = counts if of is features else coarse_counts
        sums.heads_UHF[:, :, of.place("counts")] = _segments(counted, scale_R, unit_R, units)
        return sums

    documents = summed(drawn.weight_R, rows.document_R, len(block.group_D), of=features)
    paired = drawn.replicate_R >= 0
    first = int(drawn.replicate_R[paired].min()) if paired.any() else 0
    amplitude_R = np.where(paired, drawn.amplitude_R, 0.0)
    unit_R = np.maximum(drawn.replicate_R - first, 0)
    # a certain row between two strata belongs to no replicate; it adds nothing to that of its neighbour
    unit_R = np.maximum.accumulate(unit_R)
    units = int(unit_R[-1]) + 1
    own = own_of = None
    if drawn.by_document and not question.one_document:
        document_R = rows.document_R * OWN
        key_R = np.maximum.accumulate(document_R + np.maximum(drawn.own_R, 0))
        keys, own_R = np.unique(key_R, return_inverse=True)
        own, own_of = summed(amplitude_R, own_R, len(keys)), (keys // OWN, keys % OWN)
    whole, cut = split_documents(question, block, documents, own, own_of)
    return Part(
        group=int(block.group_D[0]), groups=_grouped(documents, block.group_D), whole=whole, cut=cut, replicate=first,
        replicates=summed(amplitude_R, unit_R, units),
        gram_HH=np.tensordot(drawn.weight_R, found.gram_NHH.astype(np.float64), axes=1),
        gram_replicates_UHH=_segments(found.gram_NHH, amplitude_R, unit_R, units),
    )  # fmt: skip


def _segments(values_R: NDArray[Any], scale_R: Floats, unit_R: Indices, units: int) -> Floats:
    """(units, ...): sums of scaled rows by unit."""
    spread_UR = torch.zeros(units, len(unit_R), dtype=torch.float64)
    spread_UR[torch.from_numpy(unit_R), torch.arange(len(unit_R))] = torch.from_numpy(scale_R)
    flat_RX = torch.from_numpy(values_R.reshape(len(unit_R), -1)).double()
    found: Floats = (spread_UR @ flat_RX).numpy().reshape(units, *values_R.shape[1:])
    return found


def _by_unit(
    features: Features,
    small_HRF: Floats,
    plain_RP: Floats,
    maximum_HR: Floats,
    scale_R: Floats | None,
    unit_R: Indices,
    units: int,
) -> Sums:
    """Sums of all features but counts by unit; unit_R ascends."""
    sums = Sums.zeros(features, units, small_HRF.shape[0])
    edges = np.searchsorted(unit_R, np.arange(units + 1))
    some = np.flatnonzero(edges[1:] > edges[:-1])
    begin = edges[some]
    scaled = small_HRF if scale_R is None else small_HRF * scale_R[:, None]
    plain = plain_RP if scale_R is None else plain_RP * scale_R[:, None]
    width = small_HRF.shape[2]
    sums.heads_UHF[some, :, :width] = np.add.reduceat(scaled, begin, axis=1).transpose(1, 0, 2)
    sums.plain_UP[some] = np.add.reduceat(plain, begin, axis=0)
    sums.largest_UH[some] = np.maximum.reduceat(maximum_HR, begin, axis=1).T
    return sums


def _grouped(documents: Sums, group_D: Indices) -> Sums:
    begin = np.flatnonzero(np.diff(group_D, prepend=group_D[0] - 1))
    return Sums(
        features=documents.features,
        heads_UHF=np.add.reduceat(documents.heads_UHF, begin, axis=0),
        plain_UP=np.add.reduceat(documents.plain_UP, begin, axis=0),
        largest_UH=np.maximum.reduceat(documents.largest_UH, begin, axis=0),
    )


def _row_features(
    found: dict[str, NDArray[np.float32]], survey: Survey | None, block: Block, rows: BlockRows, features: Features
) -> Floats:
    """(H, R, F without counts) of each row."""
    first = found["entropy"]
    out_HRF = np.zeros((*first.shape, features.place("counts").start))
    visible_R = (rows.stop_R - rows.start_R).astype(np.float64)
    choice_R = visible_R > 1

    def put(name: str, value: Any) -> None:
        place = features.place(name)
        out_HRF[:, :, place] = value[..., None] if place.stop - place.start == 1 and np.ndim(value) == 2 else value

    for name, source in STORED.items():
        if source in found:
            put(name, found[source])
    entropy_HR = first.astype(np.float64)
    put("entropy_squared", entropy_HR**2)
    put("normalised_entropy", np.where(choice_R, entropy_HR / np.log(np.maximum(visible_R, 2)), 0))
    put("effective_support", np.exp(entropy_HR))
    put("mass", 1 - found["sink_residual"].astype(np.float64) if "sink_residual" in found else np.ones_like(first))
    eligible = _eligible(block, rows)
    put("sink", np.where(eligible["sink"], found["first_weight"], 0))
    if block.documents.same_axis:
        put("own", np.where(choice_R, found["self_weight"], 0))
        for name in ("duplicate", "induction"):
            put(name, np.where(eligible[name], found[f"{name}_weight"], 0))
        put("before", np.where(eligible["previous"], found["previous_weight"], 0))
    if survey is None:
        return out_HRF
    put("variance", found["position_variance"])
    put("separator", found["separator_weight"])
    put("marked", np.where(eligible["separator"], found["separator_weight"], 0))
    put("below", survey.below_HNC)
    if block.documents.same_axis:
        near = np.array([abs(offset) <= LOCAL for offset in OFFSETS])
        put("local", np.where(choice_R, survey.offset_HNO[:, :, near].sum(axis=2), 0))
        put("offset", np.where(choice_R[:, None], survey.offset_HNO, 0))
        put("by_distance", survey.distance_HNT)
        away_HR = found["argmax_key"].astype(np.int64) - rows.position_R - OFFSETS[0]
        inside_HR = (away_HR >= 0) & (away_HR < len(OFFSETS)) & choice_R
        head, row = np.nonzero(inside_HR)
        out_HRF[head, row, features.place("argmax_offset").start + away_HR[head, row]] = 1
    return out_HRF


def _from_stored(source: Source, block: Block, rows: BlockRows, features: Features) -> Floats:
    kind, row_R = block.documents.kind, block.row_R
    group = source.root[f"{kind}/statistics"]
    names = [name for name in (*STORED.values(), "sink_residual") if name in group]  # type: ignore[operator]
    paths = [f"{kind}/statistics/{name}" for name in names]
    values = source.readers.read(block.layer, dict.fromkeys(paths, (None, row_R)))
    found = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return _row_features(found, None, block, rows, features)


def _eligible(block: Block, rows: BlockRows) -> dict[str, NDArray[np.bool_]]:
    """Which rows each role is a mean over: those that see such a key, and another beside."""
    choice_R = rows.stop_R - rows.start_R > 1
    sees = lambda key_R: (key_R >= rows.start_R) & (key_R < rows.stop_R)  # noqa: E731
    found = {
        "sink": choice_R & sees(rows.first_R) & ((rows.position_R > 0) | (not block.documents.same_axis)),
        "separator": choice_R & (_separators(rows) > 0),
    }
    if rows.tokens.own_N is not None:
        copies_R2 = copies(rows.tokens, rows.start_R, rows.stop_R)
        before_R = rows.tokens.own_N - 1
        found |= {
            "previous": choice_R & (before_R >= rows.first_R) & sees(before_R),
            "duplicate": choice_R & (copies_R2[:, 0] > 0),
            "induction": choice_R & (copies_R2[:, 1] > 0),
        }
    return found


def _separators(rows: BlockRows) -> Indices:
    """How many separators each row sees."""
    sums = np.concatenate([[0], np.cumsum(rows.separator_M)])
    return np.asarray(sums[rows.stop_R] - sums[rows.start_R], dtype=np.int64)


def _plain(block: Block, rows: BlockRows, features: Features) -> Floats:
    """(R, P): what each row counts for, whatever the head, and what evenly spread attention would give."""
    out_RP = np.zeros((len(block.row_R), features.plain_size))
    visible_R = (rows.stop_R - rows.start_R).astype(np.float64)
    choice_R = visible_R > 1
    eligible = _eligible(block, rows)

    def put(name: str, value: Any) -> None:
        out_RP[:, features.plain_place(name)] = value if np.ndim(value) == 2 else np.asarray(value)[:, None]

    put("rows", np.ones_like(visible_R))
    put("choices", choice_R)
    put("cells", visible_R)
    put("positional_uniform", choice_R / visible_R)
    for name in ("sink", "separator", "previous"):
        if name in eligible:
            keys_R = _separators(rows) if name == "separator" else 1
            put(f"{name}_rows", eligible[name])
            put(f"{name}_uniform", eligible[name] * keys_R / visible_R)
    own_R = rows.tokens.own_N
    if own_R is None:
        return out_RP
    copies_R2 = copies(rows.tokens, rows.start_R, rows.stop_R)
    for i, name in enumerate(("duplicate", "induction")):
        put(f"{name}_rows", eligible[name])
        put(f"{name}_uniform", eligible[name] * copies_R2[:, i] / visible_R)
    sees_own_R = (own_R >= rows.start_R) & (own_R < rows.stop_R)
    put("self_rows", choice_R)
    put("self_uniform", choice_R * sees_own_R / visible_R)
    near_R = np.minimum(rows.stop_R, own_R + LOCAL + 1) - np.maximum(rows.start_R, own_R - LOCAL)
    put("local_rows", choice_R)
    put("local_uniform", choice_R * np.maximum(near_R, 0) / visible_R)
    key_RO = own_R[:, None] + np.array(OFFSETS)
    seen_RO = (key_RO >= rows.start_R[:, None]) & (key_RO < rows.stop_R[:, None]) & choice_R[:, None]
    put("offset_rows", seen_RO)
    put("offset_uniform", seen_RO / visible_R[:, None])
    return out_RP
