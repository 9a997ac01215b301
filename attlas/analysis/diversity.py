"""How alike heads are: similarity within and across layers, the effective number of heads, clusters and a map of them.

Suffixes: P heads of all layers (members), H heads of one layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from attlas.analysis.pairs import Pairs, finish_pairs, measure_pairs, plan_pairs
from attlas.analysis.survey import Asked, plan_survey, shard_tokens, survey_atlas
from attlas.errors import TierError
from attlas.jobs.load import source_of
from attlas.jobs.results import find_result, keep_result
from attlas.jobs.schedule import run_groups, workers_of
from attlas.progress import Report
from attlas.storage import Atlas

__all__ = ["PAIR_ROWS", "cluster_members", "effective_number", "measure_diversity"]

Floats = NDArray[np.float64]

PAIR_ROWS = 64
"""Query rows on which heads of different layers are compared, unless told otherwise."""

MOST_CLUSTERS = 12


def measure_diversity(
    atlas: Atlas,
    asked: Asked,
    *,
    pair_rows: int = PAIR_ROWS,
    scheduler: str = "threads",
    workers: int | None = None,
    save: bool = True,
    progress: Report | None = None,
) -> xr.Dataset:
    """See `attlas.analysis.head_diversity`."""
    survey = survey_atlas(atlas, asked, scheduler=scheduler, workers=workers, save=save, progress=progress)
    if "similarity" not in survey:
        raise TierError(
            f"{atlas.name} keeps row statistics summed over packs, which hold other documents beside those chosen: "
            'take all documents, or capture it again with keep="factors"'
        )
    kind = str(survey.attrs["kind"])
    parameters = asked.parameters(kind) | {"pair_rows": pair_rows, "pair_seed": asked.seed}
    found = find_result(atlas, "diversity", parameters)
    if found is not None:
        return found
    result = _within(survey)
    if not atlas.tier.weights:
        result.attrs["left_out"] = "heads of different layers are compared only from factors"
    elif survey.sizes["layer"] * survey.sizes["head"] > 1:
        pairs = _all_pairs(atlas, asked, pair_rows, scheduler, workers, progress)
        result = result.merge(_across(survey, pairs, asked.seed), combine_attrs="override")
        result.attrs["pair_rows"] = pair_rows
    result.attrs["question"] = "diversity"
    return keep_result(atlas, "diversity", parameters, result) if save else result


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


def _within(survey: xr.Dataset) -> xr.Dataset:
    similarity = survey.similarity.values
    heads = similarity.shape[1]
    apart = ~np.eye(heads, dtype=bool)
    diversity = np.array([1 - one[apart].mean() if heads > 1 else np.nan for one in similarity])
    number = np.array([effective_number(one) for one in similarity])
    names = ["similarity", *(["similarity_error"] if "similarity_error" in survey else [])]
    told = {
        "diversity": (
            "layer", diversity,
            {"long_name": "1 - mean cosine similarity of two different heads of the layer", "units": "1"},
        ),
        "effective_heads": (
            "layer", number,
            {"long_name": "exp(entropy of the eigenvalues of similarity / heads), a Vendi score", "units": "1"},
        ),
    }  # fmt: skip
    result = survey[names].assign(told)
    result.attrs = {
        name: value for name, value in survey.attrs.items() if name not in {"reused", "kept", "parameters", "made"}
    }
    return result


def _all_pairs(
    atlas: Atlas, asked: Asked, rows: int, scheduler: str, workers: int | None, progress: Report | None
) -> Pairs:
    plan, _ = plan_survey(atlas, asked)
    corpus = plan.corpus
    blocks, _ = plan_pairs(corpus, rows, asked.seed, shard_tokens(atlas, corpus.kind))
    at_once = workers_of(scheduler, workers)
    tasks = [(measure_pairs, (block, corpus, at_once)) for block in blocks]
    found = run_groups(
        [(tasks, finish_pairs, ())], source_of(atlas), scheduler=scheduler, workers=workers, progress=progress
    )
    assert isinstance(found[0], Pairs)
    return found[0]


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
    found = xr.Dataset(variables, coords)
    found["all_effective_heads"] = (
        (), effective_number(cosine_PP), {"long_name": "effective number of heads of all layers", "units": "1"}
    )  # fmt: skip
    return found


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
