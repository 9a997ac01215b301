"""The questions as people ask them: statistics, head roles, head diversity, and the plan of each before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from attlas.analysis.diversity import PAIR_ROWS, measure_diversity
from attlas.analysis.quantities import QUANTITIES, ROLES
from attlas.analysis.survey import LEVELS, THRESHOLDS, Asked, plan_survey, survey_atlas
from attlas.errors import InputError, TierError
from attlas.jobs.results import find_result
from attlas.jobs.schedule import workers_of
from attlas.progress import Report
from attlas.storage import Atlas

__all__ = ["Explanation", "explain", "head_diversity", "head_roles", "statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A job before it runs. source: "factors" or "stored row statistics". rows: of each layer and head, of `of_rows`.

    block_bytes: what a task holds at most; memory_bytes: workers x block_bytes. kept: whether the answer is there.
    """

    kind: str
    documents: int
    layers: int
    heads: int
    rows: int
    of_rows: int
    source: str
    blocks: int
    read_bytes: int
    workers: int
    block_bytes: int
    kept: bool

    @property
    def memory_bytes(self) -> int:
        return self.workers * self.block_bytes


def explain(atlas: Atlas, *, workers: int | None = None, scheduler: str = "threads", **choices: Any) -> Explanation:
    """What `statistics` or `head_roles` would do with the same choices; reads small columns alone."""
    asked = _asked(**choices)
    plan, question = plan_survey(atlas, asked)
    return Explanation(
        kind=plan.corpus.kind,
        documents=len(plan.corpus.ids),
        layers=len(plan.corpus.layers),
        heads=len(plan.corpus.heads),
        rows=plan.rows,
        of_rows=plan.corpus.rows,
        source="stored row statistics" if question.stored else "factors",
        blocks=plan.blocks,
        read_bytes=plan.read_bytes,
        workers=workers_of(scheduler, workers),
        block_bytes=plan.block_bytes,
        kept=find_result(atlas, "survey", asked.parameters(plan.corpus.kind)) is not None,
    )


def statistics(
    atlas: Atlas,
    *,
    names: Sequence[str] | None = None,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
    **choices: Any,
) -> xr.Dataset:
    """Statistics of every (layer, head), and as `document_...` of every (document, layer, head).

    >>> found = attlas.analysis.statistics(atlas, sample=60)
    >>> head = found.sel(layer=1, head=0)
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
    asked = _asked(**choices)
    survey = survey_atlas(atlas, asked, scheduler=scheduler, workers=workers, save=save, progress=progress)
    known = [quantity.name for quantity in QUANTITIES]
    wanted = known if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise InputError(f"there is no statistic {name!r}: choose of {', '.join(known)}")
        if names is not None and name not in survey:
            raise TierError(_missing(atlas, survey, name))
    endings = ("", "_error", "_low", "_high", "_document_error")
    some = [f"{name}{ending}" for name in wanted for ending in endings if f"{name}{ending}" in survey]
    some += [f"document_{name}{e}" for name in wanted for e in ("", "_error") if f"document_{name}{e}" in survey]
    result = survey[some]
    left_out = [name for name in wanted if name not in survey]
    return result.assign_attrs(question="statistics", **({"left_out": ", ".join(left_out)} if left_out else {}))


def head_roles(
    atlas: Atlas,
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
    **choices: Any,
) -> xr.Dataset:
    """Scores of every head in every role: role_score(role, layer, head), with role_threshold and role_baseline.

    >>> roles = attlas.analysis.head_roles(atlas)
    >>> roles.role_score.sel(role="induction").max("head").values
    array([0.0418, 0.8732, 0.0463, 0.0592])

    The baseline is the score of attention spread evenly over the visible keys; `has_role` where the score reaches the
    threshold and twice the baseline. Choices and errors as `statistics`.
    """
    asked = _asked(**choices)
    survey = survey_atlas(atlas, asked, scheduler=scheduler, workers=workers, save=save, progress=progress)
    names = [
        name
        for name in (
            "role_score", "role_error", "role_baseline", "role_rows", "role_threshold", "has_role", "role_definition",
            "fixed_offset",
        )
        if name in survey
    ]  # fmt: skip
    left_out = [role.name for role in ROLES if role.name not in survey["role"].values]
    result = survey[names].assign_attrs(question="roles")
    return result.assign_attrs(left_out=", ".join(left_out)) if left_out else result


def head_diversity(
    atlas: Atlas,
    *,
    pair_rows: int = PAIR_ROWS,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
    **choices: Any,
) -> xr.Dataset:
    """How alike heads are, within layers and across them.

    >>> found = attlas.analysis.head_diversity(atlas)
    >>> found.diversity.sel(layer=3).item(), found.effective_heads.sel(layer=3).item()
    (0.601, 3.19)

    similarity(layer, head, head_other): cosine over all visible cells, exact unless `sample` is given.
    diversity(layer): 1 - the mean of it over pairs. effective_heads(layer): effective number of heads.
    member_similarity, distance (member, member_other): heads of all layers against one another, on `pair_rows` sampled
    query rows; distance is the mean Jensen-Shannon distance. cluster, dendrogram_order, merges, plane: clusters by
    average linkage on it, their order, and metric MDS. member_layer and member_head say which head a member is.
    Choices and errors as `statistics`.
    """
    return measure_diversity(
        atlas, _asked(**choices), pair_rows=pair_rows, scheduler=scheduler, workers=workers, save=save,
        progress=progress,
    )  # fmt: skip


def _asked(**choices: Any) -> Asked:
    known = Asked.__dataclass_fields__
    unknown = next((name for name in choices if name not in known), None)
    if unknown is not None:
        raise InputError(f"there is no choice {unknown!r}: choose of {', '.join(known)}")
    for name in ("documents", "layers", "thresholds", "levels"):
        if choices.get(name) is not None:
            choices[name] = tuple(choices[name])
    return Asked(**{"thresholds": THRESHOLDS, "levels": LEVELS} | choices)


def _missing(atlas: Atlas, survey: xr.Dataset, name: str) -> str:
    if survey.attrs["exact"] == "no" and name == "max_weight":
        return "the largest weight of all cells cannot be told from a sample: leave the sample out, or ask for row_max"
    if not atlas.tier.weights:
        return (
            f'{name} needs factors, and {atlas.name} keeps row statistics alone: capture it again with keep="factors"'
        )
    return f"{name} has no meaning for {survey.attrs['kind']} attention, whose keys are another text"
