"""Statistics of heads: entropy, sparsity, distances, and where the weight lies. Each with its definition, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.engine.kernels.histogram import gini_from_histogram, quantiles_from_histogram, share_below
from attlas.engine.kernels.row_statistics import STATISTICS, RowStatistic
from attlas.errors import InputError, TierError
from attlas.jobs.features import Sums, ratio
from attlas.jobs.quantity import MeanOverRows, Quantity
from attlas.jobs.questions import question
from attlas.jobs.reduction import Execution, Job
from attlas.jobs.survey import OFFERS, Offer, SurveyOptions, parse_survey, plan_survey, survey_atlas
from attlas.parse import parse_names
from attlas.progress import Report
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = ["plan_statistics", "statistic_quantities", "statistics"]

Floats = NDArray[np.float64]


def statistics(
    atlas: Atlas | Where,
    *,
    names: Sequence[str] | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
    **choices: Any,
) -> xr.Dataset:
    """Statistics of every (layer, head), and as `document_...` of every (document, layer, head).

    >>> head = attlas.analysis.statistics(atlas, sample=60).sel(layer=1, head=0)
    >>> head.entropy.item(), head.entropy_low.item(), head.entropy_high.item()
    (0.635, 0.547, 0.736)

    names: some of them; all by default. choices: kind, documents, layers; sample (query rows of each layer and head;
    None for all rows, exactly), seed, confidence; thresholds of sparsity, levels of weight_quantile.
    scheduler: "threads", "ray", or the address of a dask scheduler. workers: threads at work.
    save: keep the answer in the atlas, where the same question finds it again.

    Of a sample, `x_error` is the standard error of x, and `x_low`, `x_high` its confidence interval, for the rows of
    this atlas. Of several documents, `x_document_error` is the standard error of x with the documents as a sample of
    texts. Every variable carries its definition and units. Raises InputError, TierError where the tier does not hold
    what `names` ask for, ClusterError, CorruptAtlasError.
    """
    atlas = parse_atlas(atlas)
    execution = Execution(scheduler=scheduler, workers=workers, save=save, progress=progress)
    known = [quantity.name for quantity in statistic_quantities(SurveyOptions())]
    wanted = known if names is None else parse_names(names, "names")
    unknown = next((name for name in wanted if name not in known), None)
    if unknown is not None:
        raise InputError(f"there is no statistic {unknown!r}: choose of {', '.join(known)}")
    survey = survey_atlas(atlas, *parse_survey(atlas, choices), execution)
    left_out = [name for name in wanted if name not in survey]
    if names is not None and left_out:
        raise TierError(_missing(atlas, survey, left_out[0]))
    endings = ("", "_error", "_low", "_high", "_document_error")
    some = [f"{name}{ending}" for name in wanted for ending in endings if f"{name}{ending}" in survey]
    some += [f"document_{name}{e}" for name in wanted for e in ("", "_error") if f"document_{name}{e}" in survey]
    attributes = {"question": "statistics"} | ({"left_out": ", ".join(left_out)} if left_out else {})
    return survey[some].assign_attrs(attributes)


@question("statistics")
def plan_statistics(atlas: Atlas, **choices: Any) -> Job:
    """The job behind `statistics`: one survey, which answers head_roles too."""
    return plan_survey(atlas, *parse_survey(atlas, choices))


def _missing(atlas: Atlas, survey: xr.Dataset, name: str) -> str:
    if survey.attrs["exact"] == "no" and name == "max_weight":
        return "the largest weight of all cells cannot be told from a sample: leave the sample out, or ask for row_max"
    if not atlas.tier.weights:
        return (
            f'{name} needs factors, and {atlas.name} keeps row statistics alone: capture it again with keep="factors"'
        )
    return f"{name} has no meaning for {survey.attrs['kind']} attention, whose keys are another text"


def statistic_quantities(options: SurveyOptions) -> tuple[Quantity, ...]:
    """Every statistic, in the order of the table."""
    return (
        _mean_of(STATISTICS["entropy"]),
        Quantity(
            name="entropy_std", definition="standard deviation over rows of the entropy", units="nat",
            needs=("entropy", "entropy_squared"),
            compute=Deviation(mean="entropy", squared="entropy_squared", count="rows"),
        ),
        Quantity(
            name="normalised_entropy",
            definition="mean of entropy / ln(visible keys), over rows that see two keys or more", units="1",
            needs=("normalised_entropy",), compute=Ratio(feature="normalised_entropy", count="choices"),
        ),
        Quantity(
            name="effective_support", definition="mean over rows of exp(entropy): keys that attention is spread over",
            units="token", needs=("effective_support",), compute=MeanOverRows("effective_support"),
        ),
        Quantity(
            name="gini", definition="Gini coefficient of the weights of all visible cells", units="1",
            needs=("counts",), compute=_gini,
            bound="relative 1e-4 from factors (3e-4 in documents of under 100 cells), 2e-3 from stored statistics",
        ),
        Quantity(
            name="sparsity", definition="share of visible cells with a weight below the threshold", units="1",
            needs=("counts",), compute=Sparsity(thresholds=options.thresholds), dim="threshold",
            bound="exact from factors; from stored statistics interpolated within a quarter octave of weight",
        ),
        Quantity(
            name="weight_quantile", definition="weight below which a share `level` of the visible cells lies",
            units="1", needs=("counts",), dim="level", compute=WeightQuantile(levels=options.levels),
            bound="a factor of 1.022 from factors, 1.19 from stored statistics",
        ),
        Quantity(
            name="max_weight", definition="largest weight of all visible cells", units="1", needs=("max_weight",),
            compute=_largest, sampled=False,
        ),
        _mean("max_weight", "the row's largest weight", "1", name="row_max"),
        Quantity(
            name="mean_weight", definition="mean weight of visible cells", units="1", needs=("mass",),
            compute=Ratio(feature="mass", count="cells"),
        ),
        Quantity(
            name="std_weight", definition="standard deviation of the weights of visible cells", units="1",
            needs=("mass", "squared_sum"), compute=Deviation(mean="mass", squared="squared_sum", count="cells"),
        ),
        _mean_of(STATISTICS["mean_distance"]),
        _mean(
            "position_variance", "the variance of the attended position, sum(a (j - mean)^2) / sum(a)", "token^2"
        ),
        Quantity(
            name="weight_by_distance", definition="mean over rows of the weight on keys at these distances |i - j|",
            units="1", needs=("by_distance",), dim="distance", same_axis=True, compute=_by_distance,
        ),
        *(_mean_of(statistic) for statistic in STATISTICS if statistic.averaged and statistic.name not in PLACED),
    )  # fmt: skip


PLACED = ("entropy", "mean_distance")
"""Row statistics whose means have a place of their own in the table; those of others stand at its end."""


def _mean_of(statistic: RowStatistic) -> Quantity:
    """The mean over rows of a row statistic, under its name."""
    return _mean(statistic.name, statistic.definition, statistic.units, same_axis=statistic.same_axis)


def _mean(feature: str, what: str, units: str, *, name: str = "", same_axis: bool = False) -> Quantity:
    return Quantity(
        name=name or feature, definition=f"mean over rows of {what}", units=units, needs=(feature,),
        compute=MeanOverRows(feature), same_axis=same_axis,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A feature of heads over a plain one."""

    feature: str
    count: str

    def __call__(self, sums: Sums) -> Floats:
        return ratio(sums.head(self.feature), sums.plain(self.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Standard deviation of what `mean` sums and of whose squares `squared` is the sum."""

    mean: str
    squared: str
    count: str

    def __call__(self, sums: Sums) -> Floats:
        count = sums.plain(self.count)
        mean = ratio(sums.head(self.mean), count)
        return np.sqrt(np.maximum(ratio(sums.head(self.squared), count) - mean**2, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """(U, H, thresholds): counted cell by cell, or from the histogram where nothing else is stored."""

    thresholds: tuple[float, ...]

    def __call__(self, sums: Sums) -> Floats:
        if "below" not in sums.features.parts:
            return share_below(_counts(sums), self.thresholds)
        return ratio(sums.head("below"), sums.plain("cells")[..., None])


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightQuantile:
    """(U, H, levels)."""

    levels: tuple[float, ...]

    def __call__(self, sums: Sums) -> Floats:
        return quantiles_from_histogram(_counts(sums), self.levels)


def _counts(sums: Sums) -> Floats:
    # a replicate may take a bin that few rows reach below zero
    return np.maximum(sums.head("counts"), 0)


def _gini(sums: Sums) -> Floats:
    return gini_from_histogram(_counts(sums), sums.head("masses") if sums.features.masses else None)


def _largest(sums: Sums) -> Floats:
    return np.array(sums.largest_UH)


def _by_distance(sums: Sums) -> Floats:
    return ratio(sums.head("by_distance"), sums.plain("rows")[..., None])


OFFERS["statistics"] = Offer(quantities=statistic_quantities)
