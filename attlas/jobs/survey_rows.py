"""What a survey finds of a block's rows: through the kernel from the factors, or from the stored row statistics.

A feature has the name of the row statistic that it sums. Of a role it is the same weight, on rows that the role is a
mean over, and 0 on others: `role_previous`, with `previous_rows` and what evenly spread attention would give,
`previous_uniform`, among the plain features.

Suffixes: H heads, R rows, F features of a head, P plain features, O offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attlas.engine.kernels.door import survey
from attlas.engine.kernels.histogram import FINE_BINS, HISTOGRAM_BINS
from attlas.engine.kernels.survey import REACH, Survey, SurveyMeasure, copies
from attlas.jobs.blocks import Block
from attlas.jobs.features import Features, Sums
from attlas.jobs.load import BlockRows, Source, load_problem, load_rows
from attlas.jobs.row_sums import RowValues

__all__ = ["LOCAL", "OFFSETS", "KernelRows", "StoredPacks", "StoredRows"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LOCAL = 8
"""A weight is local where the key is at most this many tokens away."""

OFFSETS = tuple(range(-REACH, REACH + 1))

KERNEL_STATISTICS = ("separator_weight", "position_variance")
"""Those that no atlas stores."""

OF_ROWS = ("entropy_squared", "normalised_entropy", "effective_support", "mass")
ROLES = ("previous", "self", "sink", "duplicate", "induction")
KERNEL_ROLES = ("separator", "local")
STORED_HEADS = (*OF_ROWS, *(f"role_{role}" for role in ROLES))
PLAIN = (
    "rows", "choices", "cells", "positional_uniform",
    *(f"{role}_{what}" for role in (*ROLES, *KERNEL_ROLES) for what in ("rows", "uniform")),
)  # fmt: skip
PLAIN_VECTORS = (("offset_rows", len(OFFSETS)), ("offset_uniform", len(OFFSETS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRows:
    """Rows measured by the survey kernel. names: row statistics to sum. thresholds: weights below each are counted.
    edges: of the distance bins. masses: whether the weights of each bin of the histogram are added up too, which a
    sample does not need."""

    names: tuple[str, ...]
    thresholds: tuple[float, ...]
    edges: tuple[int, ...]
    masses: bool

    @property
    def features(self) -> Features:
        return Features(
            heads=(*self.names, *STORED_HEADS, *KERNEL_STATISTICS, *(f"role_{role}" for role in KERNEL_ROLES)),
            head_vectors=(
                ("offset", len(OFFSETS)), ("argmax_offset", len(OFFSETS)), ("by_distance", len(self.edges) - 1),
                ("below", len(self.thresholds)),
            ),
            plain=PLAIN, plain_vectors=PLAIN_VECTORS, bins=FINE_BINS, masses=self.masses,
        )  # fmt: skip

    def measure(self, source: Source, block: Block) -> RowValues:
        rows = load_rows(source, block)
        problem, lse_HR = load_problem(source, block, rows)
        sampled = block.drawn is not None
        measure = SurveyMeasure(
            names=self.names, marked_M=rows.separator_M, edges_T=np.array(self.edges, dtype=np.int64),
            limit_C=np.array(self.thresholds, dtype=np.float32),
            group_N=np.arange(len(block.row_R)) if sampled else rows.document_R,
            groups=len(block.row_R) if sampled else len(block.group_D), row_gram=sampled,
        )  # fmt: skip
        measured = survey(problem, lse_HR, measure)
        features = self.features
        eligible = _eligible(block, rows)
        heads_HRF = _head_features(measured.rows_HN, measured, block, rows, eligible, features)
        return RowValues(
            heads_HRF=heads_HRF, plain_RP=_plain_features(block, rows, eligible, features),
            largest_HR=heads_HRF[:, :, features.place("max_weight").start], count_XHB=measured.count_XHB,
            mass_XHB=measured.mass_XHB if self.masses else None, gram_HH=measured.gram_HH, gram_RHH=measured.gram_NHH,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """Rows of the stored row statistics; no factor is read. Histograms are stored of whole packs: see StoredPacks.

    names: row statistics to sum. counted: whether those packs hold no document that is not asked for.
    """

    names: tuple[str, ...]
    counted: bool

    @property
    def features(self) -> Features:
        return Features(
            heads=(*self.names, *STORED_HEADS),
            plain=PLAIN,
            plain_vectors=PLAIN_VECTORS,
            bins=HISTOGRAM_BINS if self.counted else 0,
        )

    def measure(self, source: Source, block: Block) -> RowValues:
        rows, row_R = load_rows(source, block), block.row_R
        paths = [f"{block.documents.kind}/statistics/{name}" for name in self.names]
        values = source.readers.read(block.layer, dict.fromkeys(paths, (None, row_R)))
        stored = {name: value.numpy() for name, value in zip(self.names, values, strict=True)}
        features = self.features
        eligible = _eligible(block, rows)
        heads_HRF = _head_features(stored, None, block, rows, eligible, features)
        return RowValues(
            heads_HRF=heads_HRF, plain_RP=_plain_features(block, rows, eligible, features),
            largest_HR=heads_HRF[:, :, features.place("max_weight").start],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPacks:
    """Histograms and Gram matrices that are stored of whole packs."""

    kind: str
    packs: tuple[int, ...]

    def __call__(self, source: Source, layer: int, total: Sums) -> Floats:
        """Put the packs' histograms into a layer's sums; returns their Gram matrix (H, H)."""
        only = np.array([layer])
        count_HB, gram_HH = (
            sum(source.readers[f"{self.kind}/statistics/{name}"].read(pack, None, only)[0] for pack in self.packs)
            for name in ("histogram", "head_gram")
        )
        total.heads_UHF[0][:, total.features.place("counts")] = count_HB
        return np.asarray(gram_HH)


def _head_features(
    statistics: Mapping[str, NDArray[np.float32]],
    survey: Survey | None,
    block: Block,
    rows: BlockRows,
    eligible: Mapping[str, NDArray[np.bool_]],
    features: Features,
) -> Floats:
    """(H, R, F without the histogram) of each row. survey: what the kernel gave beside row statistics."""
    entropy = statistics["entropy"]
    out_HRF = np.zeros((*entropy.shape, features.small))
    visible_R = (rows.stop_R - rows.start_R).astype(np.float64)
    choice_R = visible_R > 1

    def put(name: str, value: Any) -> None:
        place = features.place(name)
        out_HRF[:, :, place] = value[..., None] if place.stop - place.start == 1 and np.ndim(value) == 2 else value

    for name in statistics:
        put(name, statistics[name])
    entropy_HR = entropy.astype(np.float64)
    put("entropy_squared", entropy_HR**2)
    put("normalised_entropy", np.where(choice_R, entropy_HR / np.log(np.maximum(visible_R, 2)), 0))
    put("effective_support", np.exp(entropy_HR))
    sink = statistics.get("sink_residual")
    put("mass", np.ones_like(entropy) if sink is None else 1 - sink.astype(np.float64))
    put("role_sink", np.where(eligible["sink"], statistics["first_weight"], 0))
    if block.documents.same_axis:
        put("role_self", np.where(choice_R, statistics["self_weight"], 0))
        for role in ("previous", "duplicate", "induction"):
            put(f"role_{role}", np.where(eligible[role], statistics[f"{role}_weight"], 0))
    if survey is None:
        return out_HRF
    put("role_separator", np.where(eligible["separator"], statistics["separator_weight"], 0))
    put("below", survey.below_HNC)
    if block.documents.same_axis:
        near = np.array([abs(offset) <= LOCAL for offset in OFFSETS])
        put("role_local", np.where(choice_R, survey.offset_HNO[:, :, near].sum(axis=2), 0))
        put("offset", np.where(choice_R[:, None], survey.offset_HNO, 0))
        put("by_distance", survey.distance_HNT)
        away_HR = statistics["argmax_key"].astype(np.int64) - rows.position_R - OFFSETS[0]
        inside_HR = (away_HR >= 0) & (away_HR < len(OFFSETS)) & choice_R
        head, row = np.nonzero(inside_HR)
        out_HRF[head, row, features.place("argmax_offset").start + away_HR[head, row]] = 1
    return out_HRF


def _eligible(block: Block, rows: BlockRows) -> dict[str, NDArray[np.bool_]]:
    """Which rows each role is a mean over: those that see such a key, and another beside."""
    choice_R = rows.stop_R - rows.start_R > 1
    sees = lambda key_R: (key_R >= rows.start_R) & (key_R < rows.stop_R)  # noqa: E731
    eligible = {
        "sink": choice_R & sees(rows.first_R) & ((rows.position_R > 0) | (not block.documents.same_axis)),
        "separator": choice_R & (_separators(rows) > 0),
    }
    if rows.tokens.own_N is not None:
        copies_R2 = copies(rows.tokens, rows.start_R, rows.stop_R)
        before_R = rows.tokens.own_N - 1
        eligible |= {
            "previous": choice_R & (before_R >= rows.first_R) & sees(before_R),
            "duplicate": choice_R & (copies_R2[:, 0] > 0),
            "induction": choice_R & (copies_R2[:, 1] > 0),
        }
    return eligible


def _separators(rows: BlockRows) -> Indices:
    """How many separators each row sees."""
    sums = np.concatenate([[0], np.cumsum(rows.separator_M)])
    return np.asarray(sums[rows.stop_R] - sums[rows.start_R], dtype=np.int64)


def _plain_features(
    block: Block, rows: BlockRows, eligible: Mapping[str, NDArray[np.bool_]], features: Features
) -> Floats:
    """(R, P): what each row counts for, whatever the head, and what evenly spread attention would give."""
    out_RP = np.zeros((len(block.row_R), features.plain_size))
    visible_R = (rows.stop_R - rows.start_R).astype(np.float64)
    choice_R = visible_R > 1

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
