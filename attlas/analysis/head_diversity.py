"""How alike heads are: similarity within and across layers, the effective number of heads, clusters and a map of them.

Suffixes: P heads of all layers (members), H heads of one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from attlas.analysis.head_pairs import HeadPairs, Pairs, plan_pairs
from attlas.errors import TierError
from attlas.jobs.blocks import Plan
from attlas.jobs.labels import described, error_of
from attlas.jobs.layer import LayerValues
from attlas.jobs.questions import question
from attlas.jobs.reduction import Execution, Job, run_job
from attlas.jobs.survey import OFFERS, Offer, parse_survey, survey_atlas
from attlas.parse import parse_count
from attlas.progress import Report
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = [
    "PAIR_ROWS",
    "cluster_members",
    "effective_number",
    "head_diversity",
    "plan_head_diversity",
    "summarise_diversity",
]

Floats = NDArray[np.float64]

PAIR_ROWS = 64
"""Query rows on which heads of different layers are compared, unless told otherwise."""

MOST_CLUSTERS = 12


def head_diversity(
    atlas: Atlas | Where,
    *,
    pair_rows: int = PAIR_ROWS,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
    **choices: Any,
) -> xr.Dataset:
    """How alike heads are, within layers and across them.

    >>> alike = attlas.analysis.head_diversity(atlas)
    >>> alike.diversity.sel(layer=3).item(), alike.effective_heads.sel(layer=3).item()
    (0.601, 3.19)

    similarity(layer, head, head_other): cosine over all visible cells, exact unless `sample` is given.
    diversity(layer): 1 - the mean of it over pairs. effective_heads(layer): effective number of heads.
    member_similarity, distance (member, member_other): heads of all layers against one another, on `pair_rows` sampled
    query rows; distance is the mean Jensen-Shannon distance. cluster, dendrogram_order, merges, plane: clusters by
    average linkage on it, their order, and metric MDS. member_layer and member_head say which head a member is.
    Choices and errors as `statistics`.
    """
    atlas = parse_atlas(atlas)
    execution = Execution(scheduler=scheduler, workers=workers, save=save, progress=progress)
    pair_rows = parse_count(pair_rows, "pair_rows")
    survey = survey_atlas(atlas, *parse_survey(atlas, choices), execution)
    if "similarity" not in survey:
        raise TierError(
            f"{atlas.name} keeps row statistics summed over packs, which hold other documents beside those chosen: "
            'take all documents, or capture it again with keep="factors"'
        )
    job = plan_head_diversity(atlas, pair_rows=pair_rows, **choices)
    return run_job(atlas, replace(job, describe=partial(_describe, survey, job.plan, pair_rows)), execution)


@question("head_diversity")
def plan_head_diversity(atlas: Atlas, *, pair_rows: int = PAIR_ROWS, **choices: Any) -> Job:
    """The job that compares heads of all layers; those of a layer are compared by the survey, beside statistics."""
    pair_rows = parse_count(pair_rows, "pair_rows")
    rows, options = parse_survey(atlas, choices)
    corpus = rows.corpus(atlas)
    parameters = rows.parameters(corpus) | options.parameters()
    plan = plan_pairs(atlas, corpus, pair_rows, rows.seed)

    def describe(pairs: Sequence[Pairs]) -> xr.Dataset:
        return _describe(survey_atlas(atlas, rows, options), plan, pair_rows, pairs)

    return Job(
        question="diversity", parameters=parameters | {"pair_rows": pair_rows, "pair_seed": rows.seed}, plan=plan,
        reduction=HeadPairs(corpus=corpus), describe=describe, from_factors=atlas.tier.weights,
    )  # fmt: skip


def summarise_diversity(diversity: xr.Dataset) -> list[dict[str, Any]]:
    """Of each layer its index, its diversity (None where it has one head), and its effective number of heads."""
    return [
        {
            "layer": int(layer),
            "diversity": None if np.isnan(value) else float(value),
            "effective_heads": float(number),
        }
        for layer, value, number in zip(
            diversity["layer"].values, diversity.diversity.values, diversity.effective_heads.values, strict=True
        )
    ]


def effective_number(similarity_HH: Floats) -> float:
    """Effective number of heads: exp of the entropy of the eigenvalues of similarity / heads, 1 where all are alike and
    H where none is like another (Vendi score, Friedman and Dieng 2023)."""
    values = np.linalg.eigvalsh((similarity_HH + similarity_HH.T) / 2 / len(similarity_HH))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def cluster_members(distance_PP: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Clusters (P,) from 1, the leaf order of the dendrogram (P,), and scipy's linkage (P - 1, 4).

    Average linkage; as many clusters, up to MOST_CLUSTERS, as give the largest mean silhouette.
    """
    from sklearn.metrics import silhouette_score

    square = (distance_PP + distance_PP.T) / 2
    np.fill_diagonal(square, 0)
    condensed = squareform(square, checks=False)
    merges = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    best, clusters = -2.0, np.ones(len(square), dtype=np.int64)
    for count in range(2, min(MOST_CLUSTERS, len(square) - 1) + 1):
        cut = fcluster(merges, count, "maxclust").astype(np.int64)
        if len(np.unique(cut)) != count:
            continue
        score = float(silhouette_score(square, cut, metric="precomputed"))
        if score > best:
            best, clusters = score, cut
    return clusters, leaves_list(merges).astype(np.int64), merges


def _describe(survey: xr.Dataset, plan: Plan, pair_rows: int, pairs: Sequence[Pairs]) -> xr.Dataset:
    result = _within(survey)
    if pairs:
        result = result.merge(_across(survey, pairs[0], plan.seed), combine_attrs="override")
        result.attrs["pair_rows"] = pair_rows
    elif survey.attrs["source"] != "factors":
        result.attrs["left_out"] = "heads of different layers are compared only from factors"
    result.attrs["question"] = "diversity"
    return result


def _within(survey: xr.Dataset) -> xr.Dataset:
    similarity = survey.similarity.values
    heads = similarity.shape[1]
    apart = ~np.eye(heads, dtype=bool)
    diversity = np.array([1 - one[apart].mean() if heads > 1 else np.nan for one in similarity])
    number = np.array([effective_number(one) for one in similarity])
    names = ["similarity", *(["similarity_error"] if "similarity_error" in survey else [])]
    of_layers = {
        "diversity": (
            "layer", diversity, described("1 - mean cosine similarity of two different heads of the layer", "1")
        ),
        "effective_heads": (
            "layer", number, described("exp(entropy of the eigenvalues of similarity / heads), a Vendi score", "1")
        ),
    }  # fmt: skip
    result = survey[names].assign(of_layers)
    result.attrs = {
        name: value for name, value in survey.attrs.items() if name not in {"reused", "kept", "parameters", "made"}
    }
    return result


def _across(survey: xr.Dataset, pairs: Pairs, seed: int) -> xr.Dataset:
    """Every head of every layer against every other, clustered, ordered and laid out on a plane."""
    layers, heads = survey["layer"].values, survey["head"].values
    square, both = ("member", "member_other"), np.repeat(layers, len(heads))
    clusters, order, merges = cluster_members(pairs.distance_PP)
    place_PX, stress = _plane(pairs.distance_PP, seed)
    count = len(layers)
    cosine_PP, error_PP = pairs.cosine_PP.copy(), pairs.cosine_error_PP.copy()
    for i in range(count):  # within a layer the survey knows better than the sampled rows
        own = slice(i * len(heads), (i + 1) * len(heads))
        cosine_PP[own, own] = survey.similarity.values[i]
        error_PP[own, own] = survey.similarity_error.values[i] if "similarity_error" in survey else 0
    blocks = cosine_PP.reshape(count, len(heads), count, len(heads))
    same = np.zeros((count, len(heads), count, len(heads)), dtype=bool)
    same[np.arange(count)[:, None], np.arange(len(heads)), np.arange(count)[:, None], np.arange(len(heads))] = True
    between = np.where(same, np.nan, blocks).transpose(0, 2, 1, 3).reshape(count, count, -1)
    with np.errstate(invalid="ignore"):
        layer_similarity = np.nansum(between, axis=-1) / np.maximum((~np.isnan(between)).sum(axis=-1), 1)
    distance = "mean over rows of the Jensen-Shannon distance, the root of the divergence in bits"
    variables: dict[str, Any] = {
        "member_similarity": (
            square, cosine_PP,
            {"long_name": "cosine similarity of two heads, of different layers from sampled rows", "units": "1"},
        ),
        "member_similarity_error": (
            square, error_PP, {"long_name": "standard error of member_similarity", "units": "1"}
        ),
        "distance": (square, pairs.distance_PP, {"long_name": distance, "units": "1"}),
        "distance_error": (
            square, pairs.distance_error_PP, {"long_name": "standard error of distance", "units": "1"}
        ),
        "layer_similarity": (
            ("layer", "layer_other"), layer_similarity,
            {"long_name": "mean cosine similarity of different heads of two layers, from sampled rows", "units": "1"},
        ),
        "cluster": (
            "member", clusters, {"long_name": "cluster by average linkage on distance, chosen by silhouette"}
        ),
        "dendrogram_order": ("member", order, {"long_name": "members in the order of the dendrogram's leaves"}),
        "merges": (("merge", "column"), merges, {"long_name": "linkage as scipy.cluster.hierarchy has it"}),
        "plane": (("member", "axis"), place_PX, {"long_name": "metric MDS of distance on a plane", "stress": stress}),
    }  # fmt: skip
    coords: dict[str, Any] = {
        "layer": layers,
        "layer_other": layers,
        "member_layer": ("member", both, {"long_name": "the model's layer index"}),
        "member_head": ("member", np.tile(heads, count), {"long_name": "the model's head index"}),
    }
    across = xr.Dataset(variables, coords)
    across["all_effective_heads"] = (
        (), effective_number(cosine_PP), {"long_name": "effective number of heads of all layers", "units": "1"}
    )  # fmt: skip
    return across


def _plane(distance_PP: Floats, seed: int) -> tuple[Floats, float]:
    """Places (P, 2) by metric MDS, and Kruskal's stress-1."""
    from sklearn.manifold import MDS

    square = (distance_PP + distance_PP.T) / 2
    np.fill_diagonal(square, 0)
    scale = MDS(
        n_components=2, metric="precomputed", init="classical_mds", n_init=1, normalized_stress=True, random_state=seed
    )
    place: Floats = scale.fit_transform(square)
    return place, float(scale.stress_)


def _label_similarity(plan: Plan, layers: Sequence[LayerValues]) -> dict[str, Any]:
    """The survey's Gram matrices as similarity of the heads of a layer."""
    similarity = np.stack([layer.similarity_HH for layer in layers])
    if np.isnan(similarity).all():
        return {}
    dims = ("layer", "head", "head_other")
    what = described("cosine similarity of two heads' weights over all visible cells", "1")
    variables: dict[str, Any] = {
        "head_other": ("head_other", list(plan.corpus.heads), {"long_name": "the model's head index"}),
        "similarity": (dims, similarity, what),
    }  # fmt: skip
    if plan.sample is not None:
        errors = np.stack([one for one in (layer.similarity_errors_HH for layer in layers) if one is not None])
        variables["similarity_error"] = (dims, errors, error_of("similarity", "1"))
    return variables


OFFERS["head_diversity"] = Offer(label=_label_similarity)
