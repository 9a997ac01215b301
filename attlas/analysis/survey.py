"""The survey of an atlas: one job that gives statistics, roles and similarities of every layer and head at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from attlas.analysis.layer import LayerAnswer, finish_layer
from attlas.analysis.measure import measure_block
from attlas.analysis.quantities import Quantity
from attlas.analysis.question import Question
from attlas.engine.kernels.histogram import FINE_BINS, HISTOGRAM_BINS
from attlas.engine.kernels.survey import distance_edges
from attlas.errors import InputError
from attlas.jobs.blocks import Plan, plan_blocks
from attlas.jobs.corpus import find_corpus
from attlas.jobs.features import Features
from attlas.jobs.load import source_of
from attlas.jobs.results import find_result, keep_result
from attlas.jobs.schedule import check_scheduler, run_groups, workers_of
from attlas.progress import Report
from attlas.storage import Atlas

__all__ = ["LEVELS", "THRESHOLDS", "Asked", "interval", "plan_survey", "shard_tokens", "survey_atlas"]

Floats = NDArray[np.float64]

THRESHOLDS = (0.0001, 0.001, 0.01)
LEVELS = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What may be chosen of a survey; everything else follows from the atlas.

    documents, layers: None for all. sample: query rows of each layer and head; None for all rows, exactly. seed: of the
    sample. thresholds: for sparsity. levels: of quantiles. confidence: of the intervals of a sample.
    """

    kind: str | None = None
    documents: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    sample: int | None = None
    seed: int = 0
    thresholds: tuple[float, ...] = THRESHOLDS
    levels: tuple[float, ...] = LEVELS
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if any(not 0 < threshold <= 1 for threshold in self.thresholds):
            raise InputError(f"thresholds are {self.thresholds}: weights lie above 0 and up to 1")
        if any(not 0 < level < 1 for level in self.levels) or not 0 < self.confidence < 1:
            raise InputError("levels and confidence are shares: give numbers between 0 and 1")
        if self.sample is not None and self.sample < 4:
            raise InputError(f"a sample of {self.sample} rows tells nothing of its error: take 4 or more")

    def parameters(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "kind": kind,
            "documents": None if self.documents is None else list(self.documents),
            "layers": None if self.layers is None else list(self.layers),
            "sample": self.sample,
            "thresholds": list(self.thresholds),
            "levels": list(self.levels),
        }
        return found | ({} if self.sample is None else {"seed": self.seed, "confidence": self.confidence})


def plan_survey(atlas: Atlas, asked: Asked) -> tuple[Plan, Question]:
    """Decide everything, and read nothing but small columns; raises InputError."""
    corpus = find_corpus(atlas, kind=asked.kind, documents=asked.documents, layers=asked.layers)
    stored = atlas.tier.statistics
    if stored and asked.sample is not None:
        raise InputError(f"{atlas.name} keeps row statistics, from which exact answers are quick: leave --sample out")
    features = Features(
        thresholds=asked.thresholds,
        edges=tuple(int(edge) for edge in distance_edges(int(corpus.keys_D.max()))),
        bins=HISTOGRAM_BINS if stored else FINE_BINS,
        masses=not stored and (asked.sample is None or asked.sample >= corpus.rows),
    )
    q, k = (atlas.root.get(f"{corpus.kind}/{name}") for name in ("q", "k"))
    factor_bytes = (0, 0) if stored else tuple(4 * array.shape[1] * array.shape[3] for array in (q, k))  # type: ignore[union-attr]
    plan = plan_blocks(
        corpus, features, source="statistics" if stored else "factors",
        shard_tokens=shard_tokens(atlas, corpus.kind),
        factor_bytes=(factor_bytes[0], factor_bytes[1]), sample=asked.sample, seed=asked.seed,
    )  # fmt: skip
    question = Question(
        features=features, levels=asked.levels, same_axis=corpus.same_axis, stored=stored,
        sampled=plan.sample is not None, counted=corpus.whole_packs,
        one_document=len(corpus.ids) == 1,
    )  # fmt: skip
    return plan, question


def survey_atlas(
    atlas: Atlas,
    asked: Asked,
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
) -> xr.Dataset:
    """The survey as one Dataset; see `attlas.analysis.statistics`, `head_roles` and `head_diversity` for its parts.

    Kept in the atlas where `save`, and taken from there when the same comes again. Raises InputError, TierError,
    ClusterError, CorruptAtlasError.
    """
    check_scheduler(scheduler, atlas.root.store)
    plan, question = plan_survey(atlas, asked)
    parameters = asked.parameters(plan.corpus.kind)
    found = find_result(atlas, "survey", parameters)
    if found is not None:
        return found
    source, at_once = source_of(atlas), workers_of(scheduler, workers)
    groups = [
        (
            [(measure_block, (block, question, at_once)) for block in blocks],
            finish_layer,
            (plan.corpus.kind, layer, plan.corpus.packs, question, (plan.groups, plan.replicates)),
        )
        for layer, blocks in plan.blocks_of.items()
    ]
    answers = run_groups(groups, source, scheduler=scheduler, workers=workers, progress=progress)
    result = _dataset(atlas, asked, plan, question, answers)
    return keep_result(atlas, "survey", parameters, result) if save else result


def shard_tokens(atlas: Atlas, kind: str) -> int:
    """Tokens that are read together on a kind's query axis: in a shard of q, or in a chunk of the row statistics."""
    if atlas.tier.statistics:
        return int(atlas.root[f"{kind}/log_sum_exp"].chunks[2])  # type: ignore[union-attr]
    array = atlas.root[f"{kind}/q"]
    return int((array.shards or array.chunks)[2])  # type: ignore[union-attr]


def _dataset(atlas: Atlas, asked: Asked, plan: Plan, question: Question, answers: Sequence[LayerAnswer]) -> xr.Dataset:
    corpus, features = plan.corpus, plan.features
    edges = np.array(features.edges)
    coords: dict[str, Any] = {
        "layer": ("layer", list(corpus.layer_labels), {"long_name": "the model's layer index"}),
        "head": ("head", list(corpus.heads), {"long_name": "the model's head index"}),
        "head_other": ("head_other", list(corpus.heads), {"long_name": "the model's head index"}),
        "document": ("document", np.array(corpus.ids, dtype=object), {"long_name": "the document's name"}),
        "threshold": ("threshold", list(asked.thresholds), {"long_name": "weight"}),
        "level": ("level", list(asked.levels), {"long_name": "share of the visible cells"}),
        "distance": ("distance", edges[:-1], {"long_name": "least distance |i - j|", "units": "token"}),
        "distance_stop": ("distance", edges[1:], {"long_name": "distance behind the last", "units": "token"}),
    }
    variables: dict[str, Any] = {}
    for quantity in question.quantities():
        variables |= _quantity_variables(asked, plan, quantity, answers)
    told = question.quantities(of_documents=not question.one_document)
    if len(answers[0].documents.document_U) == len(corpus.ids):
        for quantity in told:
            variables |= _document_variables(quantity, answers)
    variables |= _role_variables(question, plan, answers)
    similarity = np.stack([answer.similarity_HH for answer in answers])
    if not np.isnan(similarity).all():
        what = {"long_name": "cosine similarity of two heads' weights over all visible cells", "units": "1"}
        variables["similarity"] = (("layer", "head", "head_other"), similarity, what)
        if plan.sample is not None:
            errors = np.stack([one for one in (answer.similarity_errors_HH for answer in answers) if one is not None])
            variables["similarity_error"] = (("layer", "head", "head_other"), errors, _error_of("similarity", "1"))
    result = xr.Dataset(variables, coords).set_coords("role")
    used = {str(dim) for variable in result.data_vars.values() for dim in variable.dims}
    result = result.drop_dims([dim for dim in result.dims if dim not in used])
    return result.assign_attrs(
        question="survey",
        model=str(atlas.model.get("name")),
        kind=corpus.kind,
        source="stored row statistics" if question.stored else "factors",
        documents=len(corpus.ids),
        rows=corpus.rows,
        rows_used=plan.rows,
        exact="yes" if plan.sample is None else "no",
    )


def _quantity_variables(asked: Asked, plan: Plan, quantity: Quantity, answers: Sequence[LayerAnswer]) -> dict[str, Any]:
    name, dims = quantity.name, ("layer", "head", *((quantity.dim,) if quantity.dim else ()))
    value = np.stack([answer.values[name] for answer in answers])
    told = {"long_name": quantity.definition, "units": quantity.units}
    if quantity.bound:
        told["bound"] = quantity.bound
    found: dict[str, Any] = {name: (dims, value, told)}
    if plan.sample is not None:
        error = np.stack([answer.errors[name] for answer in answers])
        reach = stats.t.ppf((1 + asked.confidence) / 2, np.stack([answer.freedoms[name] for answer in answers]))
        found[f"{name}_error"] = (dims, error, _error_of(name, quantity.units))
        ends = interval(value, reach * error, share=quantity.units == "1")
        for end, limit in zip(("low", "high"), ends, strict=True):
            what = f"{end} end of the {asked.confidence:.0%} confidence interval of {name}, for the rows of this atlas"
            found[f"{name}_{end}"] = (dims, limit, {"long_name": what, "units": quantity.units})
    if answers[0].document_errors and name in answers[0].document_errors:
        error = np.stack([answer.document_errors[name] for answer in answers])
        what = f"standard error of {name} over documents, as a sample of texts (jackknife)"
        found[f"{name}_document_error"] = (dims, error, {"long_name": what, "units": quantity.units})
    return found


def interval(value: Floats, reach: Floats, *, share: bool) -> tuple[Floats, Floats]:
    """Both ends of a confidence interval whose half width is `reach`, made on the logit of a share, else on the
    logarithm: what attention gives is above 0 and skewed, and where a sample's mean is low, so is its error."""
    inside = (value > 0) & (reach > 0) & ((value < 1) | (not share))
    safe = np.where(inside, value, 0.5)
    if share:
        middle, width = np.log(safe / (1 - safe)), reach / (safe * (1 - safe))
        ends = tuple(1 / (1 + np.exp(-(middle + sign * width))) for sign in (-1, 1))
    else:
        ends = tuple(np.exp(np.log(safe) + sign * reach / safe) for sign in (-1, 1))
    low, high = (np.where(inside, end, value + sign * reach) for end, sign in zip(ends, (-1, 1), strict=True))
    return low, high


def _document_variables(quantity: Quantity, answers: Sequence[LayerAnswer]) -> dict[str, Any]:
    name, dims = quantity.name, ("document", "layer", "head", *((quantity.dim,) if quantity.dim else ()))
    found: dict[str, Any] = {}
    for suffix, values in (("", "values"), ("_error", "errors")):
        parts = [getattr(answer.documents, values) for answer in answers]
        if all(name in part for part in parts):
            what = quantity.definition if not suffix else f"standard error of {name} of the document"
            told = {"long_name": what, "units": quantity.units}
            value = np.stack([part[name] for part in parts], axis=1).astype(np.float32)
            found[f"document_{name}{suffix}"] = (dims, value, told)
    return found


def _role_variables(question: Question, plan: Plan, answers: Sequence[LayerAnswer]) -> dict[str, Any]:
    roles = [role for role in question.roles() if any(answer.role_rows[role.name].any() for answer in answers)]
    heads = len(plan.corpus.heads)

    def stacked(values: str, width: int) -> Floats:
        rows = [[np.broadcast_to(getattr(answer, values)[role.name], width) for answer in answers] for role in roles]
        return np.array(rows, dtype=np.float64)

    score, baseline = stacked("scores", heads), stacked("baselines", 1)[..., 0]
    threshold = np.array([role.threshold for role in roles])
    has = (score >= threshold[:, None, None]) & (score >= 2 * baseline[..., None])
    found: dict[str, Any] = {
        "role_score": (("role", "layer", "head"), score, {"long_name": "score of the head in the role", "units": "1"}),
        "role_baseline": (
            ("role", "layer"), baseline,
            {"long_name": "score of attention spread evenly over the visible keys", "units": "1"},
        ),
        "role_rows": (
            ("role", "layer"), stacked("role_rows", 1)[..., 0],
            {"long_name": "query rows that the score is a mean over", "units": "1"},
        ),
        "role_threshold": (("role",), threshold, {"long_name": "least score of a head with the role", "units": "1"}),
        "has_role": (
            ("role", "layer", "head"), has,
            {"long_name": "the score reaches the threshold, and twice the baseline"},
        ),
        "role": (("role",), np.array([role.name for role in roles], dtype=object)),
        "role_definition": (("role",), np.array([role.definition for role in roles], dtype=object)),
    }  # fmt: skip
    if plan.sample is not None:
        found["role_error"] = (("role", "layer", "head"), stacked("score_errors", heads), _error_of("role_score", "1"))
    if answers[0].offset_H is not None:
        fixed = np.stack([one for one in (answer.offset_H for answer in answers) if one is not None])
        told = {"long_name": "fixed offset, key - query, with the largest mean weight", "units": "token"}
        found["fixed_offset"] = (("layer", "head"), fixed, told)
    return found


def _error_of(name: str, units: str) -> dict[str, str]:
    return {"long_name": f"standard error of {name}, of the sample of rows", "units": units}
