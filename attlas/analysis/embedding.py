"""Heads as points: those whose patterns are alike lie near, and how far the picture can be trusted stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from attlas.analysis.choosing import chosen_rows
from attlas.analysis.head_diversity import PAIR_ROWS, cluster_members, head_diversity
from attlas.analysis.head_roles import head_roles, leading_role
from attlas.analysis.statistics import statistics
from attlas.errors import InputError, TierError
from attlas.jobs.results import answer_once
from attlas.parse import parse_choice, parse_count, parse_flag, parse_seed
from attlas.storage import Atlas, parse_atlas
from attlas.storage.stores import Where

__all__ = ["embed_heads"]

Floats = NDArray[np.float64]

NEIGHBOURS = 5
"""Of which trustworthiness is told, or fewer where there are few heads."""
PERMUTATIONS = 9_999
FEATURES = (
    "entropy", "normalised_entropy", "max_weight", "gini", "mean_distance", "first_weight", "self_weight",
    "previous_weight", "special_weight", "duplicate_weight", "induction_weight", "position_variance",
)  # fmt: skip
"""Statistics that are a head's features, those of them that the atlas can tell."""


def embed_heads(
    atlas: Atlas | Where,
    *,
    method: str = "pca",
    by: str = "distance",
    dimensions: int = 2,
    seed: int = 0,
    save: bool = True,
    **choices: Any,
) -> xr.Dataset:
    """A point for every head of every layer, so that heads that attend alike lie near one another.

    >>> found = attlas.analysis.embed_heads(atlas)
    >>> found.position.sizes["member"], found.attrs["method"], found.attrs["trustworthiness"] > 0.9
    (16, 'pca', True)

    by: "distance", the mean Jensen-Shannon distance of two heads' rows, on `pair_rows` of them (needs factors);
    "statistics", the Euclidean distance of their standardised statistics FEATURES. method: "pca" (of distances, which
    is classical scaling, Torgerson 1952), "mds" (metric, by SMACOF), "tsne" (van der Maaten and Hinton 2008), "umap"
    (McInnes et al. 2018; needs attlas[umap]). dimensions: 2 or 3. seed: of rows, of the method, of permutations. save:
    keep the answer in the atlas, where it is found the next time. choices: as of `statistics`, and `pair_rows` of
    `head_diversity`.

    position(member, axis); distance(member, member_other), what was embedded; cluster(member) by average linkage on it,
    cluster_role(cluster_number), the role that leads most of its heads, "" where none does; role(member), each head's
    leading role. attrs: trustworthiness, 1 where the `neighbours` nearest in the picture are near indeed (Venna and
    Kaski 2001); role_ratio, the mean distance in the picture of heads of one role over that of all, and role_p, the
    share of permuted roles that lie as near or nearer. Of "tsne" and "umap" neither distances between groups nor sizes
    of groups mean anything. Raises InputError, TierError where the atlas lacks what `by` needs.
    """
    atlas = parse_atlas(atlas)
    method = parse_choice(method, "method", tuple(METHODS))
    by = parse_choice(by, "by", ("distance", "statistics"))
    dimensions, seed = parse_count(dimensions, "dimensions", least=2), parse_seed(seed)
    save = parse_flag(save, "save")
    if dimensions > 3:
        raise InputError(f"dimensions is {dimensions}: give 2 or 3, which can be drawn")
    if by == "statistics" and "pair_rows" in choices:
        raise InputError('pair_rows is of by="distance": leave it out')
    pair_rows = parse_count(choices.get("pair_rows", PAIR_ROWS), "pair_rows")
    _, rows = chosen_rows(atlas, {n: v for n, v in choices.items() if n != "pair_rows"} | {"seed": seed})
    parameters = rows | {"method": method, "by": by, "dimensions": dimensions, "seed": seed, "pair_rows": pair_rows}
    given = choices | {"save": save, "seed": seed}
    return answer_once(atlas, "embedding", parameters, lambda: _embed(atlas, method, by, dimensions, given), save=save)


def _embed(atlas: Atlas, method: str, by: str, dimensions: int, choices: dict[str, Any]) -> xr.Dataset:
    distance_PP, labels, told = _of_patterns(atlas, choices) if by == "distance" else _of_statistics(atlas, choices)
    seed = choices["seed"]
    heads, (layer_P, head_P) = len(distance_PP), np.array(labels).T
    if heads < 4:
        raise InputError(f"{atlas.name} has {heads} heads: an embedding says something of 4 and more")
    place_PX = METHODS[method](distance_PP, dimensions, seed)
    roles = leading_role(head_roles(atlas, **{n: v for n, v in choices.items() if n != "pair_rows"})).ravel()
    clusters, _, _ = cluster_members(distance_PP)
    numbers = np.unique(clusters)
    neighbours = min(NEIGHBOURS, (heads - 1) // 2)
    ratio, chance = _apart(place_PX, roles, seed)
    return xr.Dataset(
        {
            "position": (("member", "axis"), place_PX, {"long_name": f"place by {method} of {told}"}),
            "distance": (("member", "member_other"), distance_PP, {"long_name": told, "units": "1"}),
            "cluster": ("member", clusters, {"long_name": "cluster by average linkage, chosen by silhouette"}),
            "role": ("member", roles.astype(str), {"long_name": "leading role, empty where the head has none"}),
            "cluster_role": (
                "cluster_number", np.array([_commonest(roles[clusters == number]) for number in numbers]),
                {"long_name": "role that leads most heads of the cluster, empty where most have none"},
            ),
        },
        {
            "member_layer": ("member", layer_P, {"long_name": "the model's layer index"}),
            "member_head": ("member", head_P, {"long_name": "the model's head index"}),
            "cluster_number": numbers,
        },
        {
            "question": "embedding", "model": str(atlas.model.get("name")), "method": method, "by": by, "seed": seed,
            "trustworthiness": _trustworthiness(distance_PP, place_PX, neighbours), "neighbours": neighbours,
            "role_ratio": ratio, "role_p": chance,
        },
    )  # fmt: skip


def _of_patterns(atlas: Atlas, choices: dict[str, Any]) -> tuple[Floats, list[tuple[int, int]], str]:
    found = head_diversity(atlas, **choices)
    if "distance" not in found:
        raise TierError(
            f'{atlas.name} keeps no factors, from which patterns of heads are compared: take by="statistics", or '
            'capture it again with keep="factors"'
        )
    labels = list(zip(found.member_layer.values.tolist(), found.member_head.values.tolist(), strict=True))
    distance_PP = (found.distance.values + found.distance.values.T) / 2
    np.fill_diagonal(distance_PP, 0)
    return distance_PP, labels, str(found.distance.attrs["long_name"])


def _of_statistics(atlas: Atlas, choices: dict[str, Any]) -> tuple[Floats, list[tuple[int, int]], str]:
    found = statistics(atlas, **choices)
    columns = {name: found[name].values.ravel() for name in FEATURES if name in found and found[name].ndim == 2}
    used = {name: values for name, values in columns.items() if np.isfinite(values).all() and values.std() > 0}
    features_PF = np.stack([(values - values.mean()) / values.std() for values in used.values()], axis=1)
    labels = [(layer, head) for layer in found["layer"].values.tolist() for head in found["head"].values.tolist()]
    return squareform(pdist(features_PF)), labels, f"Euclidean distance of standardised {', '.join(used)}"


def _principal(distance_PP: Floats, dimensions: int, seed: int) -> Floats:
    """Principal coordinates: eigenvectors of the doubly centred squared distances."""
    squared = distance_PP**2
    centred = -(squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()) / 2
    values, vectors = np.linalg.eigh(centred)
    leading = np.argsort(-values)[:dimensions]
    place: Floats = vectors[:, leading] * np.sqrt(np.maximum(values[leading], 0))
    sign = np.sign(place[np.abs(place).argmax(axis=0), np.arange(place.shape[1])])
    return place * np.where(sign == 0, 1, sign)


def _metric(distance_PP: Floats, dimensions: int, seed: int) -> Floats:
    from sklearn.manifold import MDS

    scale = MDS(dimensions, metric="precomputed", init="classical_mds", n_init=1, random_state=seed)
    place: Floats = scale.fit_transform(distance_PP)
    return place


def _neighbour(distance_PP: Floats, dimensions: int, seed: int) -> Floats:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(distance_PP) - 1) / 3)
    scale = TSNE(
        dimensions, metric="precomputed", init="random", perplexity=perplexity, random_state=seed, method="exact"
    )
    return np.asarray(scale.fit_transform(distance_PP), dtype=np.float64)


def _manifold(distance_PP: Floats, dimensions: int, seed: int) -> Floats:
    try:
        from umap import UMAP
    except ImportError as error:
        raise InputError('method="umap" needs a package that is not installed: pip install attlas[umap]') from error
    neighbours = min(15, len(distance_PP) - 1)
    scale = UMAP(n_components=dimensions, metric="precomputed", n_neighbors=neighbours, random_state=seed, n_jobs=1)
    return np.asarray(scale.fit_transform(distance_PP), dtype=np.float64)


METHODS: dict[str, Callable[[Floats, int, int], Floats]] = {
    "pca": _principal, "mds": _metric, "tsne": _neighbour, "umap": _manifold,
}  # fmt: skip


def _trustworthiness(distance_PP: Floats, place_PX: Floats, neighbours: int) -> float:
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(distance_PP, place_PX, n_neighbors=neighbours, metric="precomputed"))


def _apart(place_PX: Floats, roles_P: NDArray[np.object_], seed: int) -> tuple[float, float]:
    """Mean distance in the picture of pairs of one role over that of all pairs, and its one-sided permutation p.

    Of heads that have a role; NaN where no two share one or all do.
    """
    has = np.array([bool(role) for role in roles_P])
    names, code_P = np.unique(roles_P[has].astype(str), return_inverse=True)
    if len(names) < 2 or not (np.bincount(code_P) > 1).any():
        return float("nan"), float("nan")
    distance_PP = squareform(pdist(place_PX[has]))
    pairs = np.triu_indices(len(code_P), 1)
    every = distance_PP[pairs]

    def within(codes: NDArray[np.int64]) -> float:
        return float(every[codes[pairs[0]] == codes[pairs[1]]].mean() / every.mean())

    draw, seen = np.random.default_rng(seed), within(code_P)
    nearer = sum(within(draw.permutation(code_P)) <= seen + 1e-12 for _ in range(PERMUTATIONS))
    return seen, (nearer + 1) / (PERMUTATIONS + 1)


def _commonest(roles: NDArray[np.object_]) -> str:
    names, counts = np.unique(roles.astype(str), return_counts=True)
    return str(names[counts.argmax()])
