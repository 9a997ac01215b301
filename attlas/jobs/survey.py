"""The survey: one pass over the rows that answers several questions at once, and is kept as one answer.

What it tells of are the quantities that analyses have offered; each then takes its own from the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from attlas.engine.kernels.row_statistics import statistic_names
from attlas.engine.kernels.survey import distance_edges
from attlas.errors import InputError
from attlas.jobs.blocks import Plan
from attlas.jobs.choices import Choices, parse_choices
from attlas.jobs.labels import label_quantities
from attlas.jobs.layer import LayerValues
from attlas.jobs.quantity import Quantity
from attlas.jobs.reduction import Execution, Job, run_job
from attlas.jobs.row_sums import RowSums
from attlas.jobs.rows_job import plan_rows
from attlas.jobs.survey_rows import KernelRows, StoredPacks, StoredRows
from attlas.parse import parse_numbers
from attlas.storage import Atlas

__all__ = ["LEVELS", "OFFERS", "THRESHOLDS", "Offer", "SurveyOptions", "parse_survey", "plan_survey", "survey_atlas"]

THRESHOLDS = (0.0001, 0.001, 0.01)
LEVELS = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyOptions:
    """thresholds: of weights, for sparsity, above 0 and up to 1. levels: of quantiles, shares between 0 and 1."""

    thresholds: tuple[float, ...] = THRESHOLDS
    levels: tuple[float, ...] = LEVELS

    def __post_init__(self) -> None:
        if any(not 0 < level < 1 for level in self.levels):
            raise InputError(f"levels are {self.levels}: give shares between 0 and 1")

    def parameters(self) -> dict[str, Any]:
        """What an answer depends on."""
        return {"thresholds": list(self.thresholds), "levels": list(self.levels)}


Label = Callable[[Plan, Sequence[LayerValues]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An analysis' share of the survey. quantities: with the options, what is computed and labelled. parts: what is
    computed for `label`, which makes further variables, name -> (dims, values, attributes), of the layers."""

    quantities: Callable[[SurveyOptions], Sequence[Quantity]] | None = None
    parts: tuple[Quantity, ...] = ()
    label: Label | None = None


OFFERS: dict[str, Offer] = {}
"""question -> its part; filled by the analyses when they are imported."""


def parse_survey(atlas: Atlas, given: dict[str, Any]) -> tuple[Choices, SurveyOptions]:
    """Choices and options from keywords; raises InputError."""
    names = ("thresholds", "levels")
    options = {name: parse_numbers(given[name], name) for name in names if given.get(name) is not None}
    choices = parse_choices(atlas, {name: value for name, value in given.items() if name not in names}, beside=names)
    return choices, SurveyOptions(**options)


def plan_survey(atlas: Atlas, choices: Choices, options: SurveyOptions | None = None) -> Job:
    """The survey as a job; reads nothing but small columns. Raises InputError."""
    options = options or SurveyOptions()
    corpus, stored = choices.corpus(atlas), atlas.tier.statistics
    if stored and choices.sample is not None:
        raise InputError(f"{atlas.name} keeps row statistics, from which exact answers are quick: leave --sample out")
    edges = tuple(int(edge) for edge in distance_edges(int(corpus.keys_D.max())))
    sampled = choices.sample is not None and choices.sample < corpus.rows
    names = statistic_names(same_axis=corpus.same_axis, sinks=corpus.sinks)
    if stored:
        names = tuple(name for name in names if name in atlas.attrs["kinds"][corpus.kind]["statistics"])
    measure = (
        StoredRows(names=names, counted=corpus.whole_packs) if stored
        else KernelRows(names=names, thresholds=options.thresholds, edges=edges, masses=not sampled)
    )  # fmt: skip
    coords = {
        "threshold": ("threshold", list(options.thresholds), {"long_name": "weight"}),
        "level": ("level", list(options.levels), {"long_name": "share of the visible cells"}),
        "distance": ("distance", np.array(edges[:-1]), {"long_name": "least distance |i - j|", "units": "token"}),
        "distance_stop": ("distance", np.array(edges[1:]), {"long_name": "distance behind the last", "units": "token"}),
    }

    offers = tuple(OFFERS.values())
    labelled = [q for offer in offers if offer.quantities is not None for q in offer.quantities(options)]
    parts = [q for offer in offers for q in offer.parts]
    labels = [offer.label for offer in offers if offer.label is not None]

    def describe(plan: Plan, reduction: RowSums, layers: Sequence[LayerValues]) -> xr.Dataset:
        names = {quantity.name for quantity in parts}
        result = label_quantities(
            plan, [q for q in reduction.quantities if q.name not in names],
            [q for q in reduction.document_quantities if q.name not in names], layers,
            confidence=choices.confidence, coords=coords,
        )  # fmt: skip
        for label in labels:
            result = result.assign(label(plan, layers))
        used = {str(dim) for variable in result.data_vars.values() for dim in variable.dims}
        return result.drop_dims([dim for dim in result.dims if dim not in used])

    return plan_rows(
        atlas, "survey", choices, measure, [*labelled, *parts], corpus=corpus,
        parameters=options.parameters() | {"statistics": list(names), "analyses": sorted(OFFERS)}, describe=describe,
        from_factors=not stored,
        of_packs=StoredPacks(kind=corpus.kind, packs=corpus.packs) if stored and corpus.whole_packs else None,
    )  # fmt: skip


def survey_atlas(
    atlas: Atlas, choices: Choices, options: SurveyOptions | None = None, execution: Execution | None = None
) -> xr.Dataset:
    """The survey as one Dataset, in which every analysis finds its own.

    Kept in the atlas, and taken from there when the same comes again. Raises InputError, ClusterError,
    CorruptAtlasError.
    """
    return run_job(atlas, plan_survey(atlas, choices, options), execution or Execution())
