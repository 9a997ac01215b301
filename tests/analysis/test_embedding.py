"""Heads as points: against PCA of known points, against scikit-learn's own, and on heads whose groups are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

import attlas
from attlas import analysis
from attlas.analysis.embedding import METHODS, _apart
from attlas.cli.demo import TEXT
from attlas.errors import InputError, TierError


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> attlas.Atlas:
    return attlas.capture("demo", [TEXT], tmp_path_factory.mktemp("embedding") / "a.zarr")


def test_principal_coordinates_are_those_of_pca() -> None:
    points = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 1, 0.5, 0.1]
    found = METHODS["pca"](squareform(pdist(points)), 3, 0)
    expected = PCA(3).fit_transform(points)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)


@pytest.mark.parametrize("method", ["pca", "mds", "tsne"])
def test_groups_stay_groups(method: str) -> None:
    draw = np.random.default_rng(1)
    centre = draw.normal(size=(3, 6)) * 10
    group = np.repeat(np.arange(3), 8)
    points = centre[group] + draw.normal(size=(24, 6)) * 0.5
    place = METHODS[method](squareform(pdist(points)), 2, 0)
    distance = squareform(pdist(place)) + np.diag(np.full(24, np.inf))
    assert (group[distance.argmin(axis=1)] == group).all()
    again = METHODS[method](squareform(pdist(points)), 2, 0)
    np.testing.assert_array_equal(place, again)


def test_heads_that_are_alike_lie_near(atlas: attlas.Atlas) -> None:
    found, alike = analysis.embed_heads(atlas, dimensions=3), analysis.head_diversity(atlas, seed=0)
    np.testing.assert_allclose(found.distance, (alike.distance.values + alike.distance.values.T) / 2, atol=1e-12)
    order = spearmanr(pdist(found.position.values), squareform(found.distance.values)).statistic
    assert order > 0.8
    assert found.attrs["trustworthiness"] > 0.9
    assert list(zip(found.member_layer.values, found.member_head.values, strict=True)) == [
        (layer, head) for layer in range(4) for head in range(4)
    ]
    roles = analysis.head_roles(atlas, seed=0)
    has = roles.has_role.sel(role="induction").values.ravel()
    assert has.any()
    assert set(found.role.values[has]) <= {"induction", *roles["role"].values}


def test_heads_of_one_role_lie_together_and_permuted_roles_do_not() -> None:
    draw = np.random.default_rng(2)
    roles = np.array(["sink"] * 10 + ["previous"] * 10 + [""] * 5, dtype=object)
    place = draw.normal(size=(25, 2)) + np.where(roles == "sink", 4.0, 0.0)[:, None]
    ratio, chance = _apart(place, roles, 0)
    assert ratio < 0.8
    assert chance < 0.001
    chances = [_apart(place, np.r_[draw.permutation(roles[:20]), roles[20:]], 0)[1] for _ in range(12)]
    assert np.median(chances) > 0.1
    assert np.isnan(_apart(place, np.array([""] * 25, dtype=object), 0)).all()


def test_statistics_are_features_too(atlas: attlas.Atlas, tmp_path: Path) -> None:
    poor = attlas.capture("demo", [TEXT], tmp_path / "s.zarr", keep="statistics")
    found = analysis.embed_heads(poor, by="statistics", method="mds")
    assert found.position.shape == (16, 2)
    names = found.distance.attrs["long_name"].removeprefix("Euclidean distance of standardised ").split(", ")
    table = analysis.statistics(poor)
    columns = np.stack([table[name].values.ravel() for name in names], axis=1)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    np.testing.assert_allclose(found.distance, squareform(pdist(columns)), atol=1e-9)
    with pytest.raises(TierError, match='take by="statistics"'):
        analysis.embed_heads(poor)
    for choices, told in (({"method": "som"}, "method"), ({"by": "name"}, "by"), ({"dimensions": 4}, "give 2 or 3")):
        with pytest.raises(InputError, match=told):
            analysis.embed_heads(atlas, **choices)
