"""What is told of a head, as functions of its sums: statistics and roles, each with its definition in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attlas.engine.kernels.histogram import (
    gini_from_histogram,
    quantiles_from_histogram,
    share_below,
)
from attlas.jobs.features import LOCAL, OFFSETS, Sums

__all__ = ["QUANTITIES", "ROLES", "Quantity", "Role", "quantities_of", "roles_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One statistic of a head. dim: a further dimension. needs: features it is made of. compute: sums -> (U, H, ...).

    sampled: whether a sample estimates it. bound: how far from brute force, where it is not to rounding alone.
    """

    name: str
    definition: str
    units: str
    needs: tuple[str, ...]
    compute: Callable[[Sums, tuple[float, ...]], Floats]
    dim: str | None = None
    same_axis: bool = False
    sampled: bool = True
    bound: str = ""


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom; NaN, "no such row", where bottom is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(bottom > 0, top / bottom, np.nan)
    return found


def _mean(feature: str) -> Callable[[Sums, tuple[float, ...]], Floats]:
    return lambda sums, _levels: _ratio(sums.head(feature), sums.plain("rows"))


def _entropy_std(sums: Sums, _levels: tuple[float, ...]) -> Floats:
    rows = sums.plain("rows")
    mean = _ratio(sums.head("entropy"), rows)
    return np.sqrt(np.maximum(_ratio(sums.head("entropy_squared"), rows) - mean**2, 0))


def _weight_std(sums: Sums, _levels: tuple[float, ...]) -> Floats:
    cells = sums.plain("cells")
    mean = _ratio(sums.head("mass"), cells)
    return np.sqrt(np.maximum(_ratio(sums.head("squared"), cells) - mean**2, 0))


def _counts(sums: Sums) -> Floats:
    # a replicate may take a bin that few rows reach below zero
    return np.maximum(sums.head("counts"), 0)


def _sparsity(sums: Sums, _levels: tuple[float, ...]) -> Floats:
    thresholds = sums.features.thresholds
    if not sums.head("below").any():  # stored histograms alone
        return share_below(_counts(sums), thresholds)
    return _ratio(sums.head("below"), sums.plain("cells")[..., None])


def _gini(sums: Sums, _levels: tuple[float, ...]) -> Floats:
    return gini_from_histogram(_counts(sums), sums.head("masses") if sums.features.masses else None)


QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="entropy", definition="mean over rows of -sum(a ln a)", units="nat", needs=("entropy",),
        compute=_mean("entropy"),
    ),
    Quantity(
        name="entropy_std", definition="standard deviation over rows of the entropy", units="nat", needs=("entropy",),
        compute=_entropy_std,
    ),
    Quantity(
        name="normalised_entropy",
        definition="mean of entropy / ln(visible keys), over rows that see two keys or more", units="1",
        needs=("entropy",),
        compute=lambda sums, _: _ratio(sums.head("normalised_entropy"), sums.plain("choices")),
    ),
    Quantity(
        name="effective_support", definition="mean over rows of exp(entropy): keys that attention is spread over",
        units="token", needs=("entropy",), compute=_mean("effective_support"),
    ),
    Quantity(
        name="gini", definition="Gini coefficient of the weights of all visible cells", units="1", needs=("counts",),
        compute=_gini,
        bound="relative 1e-4 from factors (3e-4 in documents of under 100 cells), 2e-3 from stored statistics",
    ),
    Quantity(
        name="sparsity", definition="share of visible cells with a weight below the threshold", units="1",
        needs=("counts",), compute=_sparsity, dim="threshold",
        bound="exact from factors; from stored statistics interpolated within a quarter octave of weight",
    ),
    Quantity(
        name="weight_quantile", definition="weight below which a share `level` of the visible cells lies", units="1",
        needs=("counts",), dim="level",
        compute=lambda sums, levels: quantiles_from_histogram(_counts(sums), levels),
        bound="a factor of 1.022 from factors, 1.19 from stored statistics",
    ),
    Quantity(
        name="max_weight", definition="largest weight of all visible cells", units="1", needs=("maximum",),
        compute=lambda sums, _: np.array(sums.largest_UH), sampled=False,
    ),
    Quantity(
        name="row_max", definition="mean over rows of the row's largest weight", units="1", needs=("maximum",),
        compute=_mean("maximum"),
    ),
    Quantity(
        name="mean_weight", definition="mean weight of visible cells", units="1", needs=("mass",),
        compute=lambda sums, _: _ratio(sums.head("mass"), sums.plain("cells")),
    ),
    Quantity(
        name="std_weight", definition="standard deviation of the weights of visible cells", units="1",
        needs=("mass", "squared"), compute=_weight_std,
    ),
    Quantity(
        name="mean_distance", definition="mean over rows of sum(a |i - j|)", units="token", needs=("distance",),
        compute=_mean("distance"), same_axis=True,
    ),
    Quantity(
        name="position_variance",
        definition="mean over rows of the variance of the attended position, sum(a (j - mean)^2) / sum(a)",
        units="token^2", needs=("variance",), compute=_mean("variance"),
    ),
    Quantity(
        name="weight_by_distance", definition="mean over rows of the weight on keys at these distances |i - j|",
        units="1", needs=("by_distance",), dim="distance", same_axis=True,
        compute=lambda sums, _: _ratio(sums.head("by_distance"), sums.plain("rows")[..., None]),
    ),
    Quantity(
        name="first_share", definition="mean over rows of the weight on the document's first token", units="1",
        needs=("first",), compute=_mean("first"),
    ),
    Quantity(
        name="self_share", definition="mean over rows of the weight on the query's own position", units="1",
        needs=("self",), compute=_mean("self"), same_axis=True,
    ),
    Quantity(
        name="previous_share", definition="mean over rows of the weight on the token before the query", units="1",
        needs=("previous",), compute=_mean("previous"), same_axis=True,
    ),
    Quantity(
        name="special_share", definition="mean over rows of the weight on the tokenizer's special tokens", units="1",
        needs=("special",), compute=_mean("special"),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One role. score, baseline: sums -> (U, H) and (U, 1), in [0, 1]; rows: how many rows they are means over.

    A head has the role where its score reaches the threshold and twice the baseline, which is the same score for
    attention spread evenly over the visible keys.
    """

    name: str
    definition: str
    threshold: float
    needs: tuple[str, ...]
    score: Callable[[Sums], Floats]
    baseline: Callable[[Sums], Floats]
    rows: Callable[[Sums], Floats]
    same_axis: bool = True


def _role(name: str, feature: str, plain: str, definition: str, threshold: float, *, same_axis: bool = True) -> Role:
    return Role(
        name=name, definition=definition, threshold=threshold, needs=(feature,), same_axis=same_axis,
        score=lambda sums: _ratio(sums.head(feature), sums.plain(f"{plain}_rows")),
        baseline=lambda sums: _ratio(sums.plain(f"{plain}_uniform"), sums.plain(f"{plain}_rows")),
        rows=lambda sums: sums.plain(f"{plain}_rows"),
    )  # fmt: skip


FAR = np.array([abs(offset) > 1 for offset in OFFSETS])
NEXT = OFFSETS.index(1)
LEAST_SHARE = 0.25
"""Offsets that fewer of the rows can see are no fixed offset of a head."""


def offset_scores(sums: Sums) -> Floats:
    """(U, H, offsets): mean weight at each offset over the rows that see it; NaN at offsets few rows see."""
    rows = sums.plain("offset_rows")
    seen = (rows >= LEAST_SHARE * sums.plain("choices")[..., None]) & (rows > 0)
    return np.where(seen, _ratio(sums.head("offset"), rows), np.nan)


def _uniform_offsets(sums: Sums) -> Floats:
    rows = sums.plain("offset_rows")
    seen = (rows >= LEAST_SHARE * sums.plain("choices")[..., None]) & (rows > 0)
    return np.where(seen, _ratio(sums.plain("offset_uniform"), rows), np.nan)


def best_offset(scores_UHO: Floats, allowed_O: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(U, H): place of the allowed offset with the largest score."""
    found: NDArray[np.int64] = np.argmax(np.where(allowed_O & ~np.isnan(scores_UHO), scores_UHO, -1), axis=-1)
    return found


def _largest(values: Floats, allowed: NDArray[np.bool_]) -> Floats:
    some = (allowed & ~np.isnan(values)).any(axis=-1)
    found = np.where(allowed & ~np.isnan(values), values, -1).max(axis=-1)
    return np.where(some, found, np.nan)


def _next_score(sums: Sums) -> Floats:
    return _ratio(sums.head("offset")[..., NEXT], sums.plain("offset_rows")[..., NEXT])


ANY = np.ones(len(OFFSETS), dtype=np.bool_)

ROLES: tuple[Role, ...] = (
    _role("previous", "before", "previous", "mean weight on the token before the query", 0.5),
    Role(
        name="next", definition="mean weight on the token after the query", threshold=0.5, needs=("offset",),
        score=_next_score, rows=lambda sums: sums.plain("offset_rows")[..., NEXT],
        baseline=lambda sums: _ratio(sums.plain("offset_uniform")[..., NEXT], sums.plain("offset_rows")[..., NEXT]),
    ),
    _role("self", "own", "self", "mean weight on the query's own position", 0.5),
    _role(
        "sink", "sink", "sink", "mean weight on the document's first token, of later queries (Xiao et al. 2023)", 0.5,
        same_axis=False,
    ),
    _role(
        "separator", "marked", "separator",
        "mean weight on punctuation, line ends and special tokens, where one is visible (Clark et al. 2019)", 0.5,
        same_axis=False,
    ),
    Role(
        name="offset",
        definition=f"mean weight at the best fixed offset of 2 to {OFFSETS[-1]} tokens", threshold=0.5,
        needs=("offset",), score=lambda sums: _largest(offset_scores(sums), FAR),
        baseline=lambda sums: _largest(_uniform_offsets(sums), FAR), rows=lambda sums: sums.plain("choices"),
    ),
    _role("local", "local", "local", f"mean weight on keys at most {LOCAL} tokens away", 0.7),
    _role(
        "duplicate", "duplicate", "duplicate",
        "mean weight on earlier copies of the query's token, of queries that see one", 0.3,
    ),
    _role(
        "induction", "induction", "induction",
        "mean weight on tokens that follow an earlier copy of the query's token, of queries that see one "
        "(prefix matching, Olsson et al. 2022)", 0.3,
    ),
    Role(
        name="positional",
        definition="share of queries whose largest weight is at one and the same offset (Voita et al. 2019)",
        threshold=0.9, needs=("argmax_offset",), rows=lambda sums: sums.plain("choices"),
        score=lambda sums: _largest(_ratio(sums.head("argmax_offset"), sums.plain("choices")[..., None]), ANY),
        baseline=lambda sums: _ratio(sums.plain("positional_uniform"), sums.plain("choices")),
    ),
)  # fmt: skip


def quantities_of(*, same_axis: bool, available: frozenset[str], sampled: bool = False) -> tuple[Quantity, ...]:
    """The statistics that these features give."""
    return tuple(
        quantity for quantity in QUANTITIES
        if (same_axis or not quantity.same_axis) and set(quantity.needs) <= available
        and (quantity.sampled or not sampled)
    )  # fmt: skip


def roles_of(*, same_axis: bool, available: frozenset[str]) -> tuple[Role, ...]:
    return tuple(role for role in ROLES if (same_axis or not role.same_axis) and set(role.needs) <= available)
