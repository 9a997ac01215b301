"""Likeness of heads: against brute force and scipy, and on heads whose likeness is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from attlas import analysis
from attlas.analysis.head_diversity import cluster_members, effective_number
from attlas.engine.kernels.divergence import shannon_distances
from attlas.errors import TierError
from attlas.storage import open_atlas
from tests.analysis.brute import cosine
from tests.analysis.test_statistics import write
from tests.storage.synthetic import synthetic

LENGTHS = (60, 7, 40)


@pytest.mark.parametrize("rule", ["plain", "sinks"])
def test_heads_of_all_layers_equal_brute_force(rule: str) -> None:
    """With every row taken, the sample is the whole."""
    made = synthetic(LENGTHS, seed=2, rule=rule)
    atlas = write(made, f"diversity-{rule}")
    found = analysis.head_diversity(atlas, pair_rows=sum(LENGTHS))
    dense = [made.dense(i).reshape(8, n, n) for i, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(found.member_similarity, cosine(list(dense)), rtol=1e-4)
    rows = [row for a in dense for row in a.transpose(1, 0, 2)]
    expected = np.mean([[[jensenshannon(p, q, 2) for q in row] for p in row] for row in rows], axis=0)
    np.testing.assert_allclose(found.distance, expected, atol=2e-6, rtol=1e-4)
    within = np.array(
        [1 - cosine([a[4 * i : 4 * i + 4] for a in dense])[~np.eye(4, dtype=bool)].mean() for i in (0, 1)]
    )
    np.testing.assert_allclose(found.diversity, within, rtol=1e-4)
    assert list(found.member_layer.values) == [0] * 4 + [1] * 4


def test_a_sample_of_pairs_is_within_its_error() -> None:
    made = synthetic((150, 90, 120), seed=3)
    atlas = write(made, "diversity-sampled")
    whole = analysis.head_diversity(atlas, pair_rows=360, save=False)
    off = [
        (np.abs(part.distance - whole.distance) / part.distance_error).values[~np.eye(8, dtype=bool)]
        for part in (analysis.head_diversity(atlas, pair_rows=80, seed=seed, save=False) for seed in range(8))
    ]
    assert np.mean(np.concatenate(off) < 2) > 0.8
    assert np.concatenate(off).max() < 8


def test_distances_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    a_PK = np.exp(3 * rng.normal(size=(12, 300))).astype(np.float32)
    a_PK[3] = a_PK[2] * (1 + 1e-3 * rng.normal(size=300))
    a_PK[4], a_PK[5] = np.eye(300)[7], np.eye(300)[9]
    found = shannon_distances(a_PK)
    expected = [[jensenshannon(p, q, 2) for q in a_PK.astype(np.float64)] for p in a_PK.astype(np.float64)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_effective_number_counts_unlike_heads() -> None:
    assert effective_number(np.eye(6)) == pytest.approx(6)
    assert effective_number(np.ones((6, 6))) == pytest.approx(1)
    pairs = np.kron(np.eye(3), np.ones((2, 2))).astype(np.float64)
    assert effective_number(pairs) == pytest.approx(3)


def test_clusters_find_groups() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2], [5, 7, 4])
    distance = np.where(group[:, None] == group, 0.1, 0.9) + 0.01 * rng.random((16, 16))
    clusters, order, merges = cluster_members(distance)
    assert len({(g, c) for g, c in zip(group, clusters, strict=True)}) == 3
    assert sorted(order) == list(range(16))
    assert np.count_nonzero(np.diff(group[order])) == 2
    assert merges.shape == (15, 4)


def test_stored_statistics_tell_of_layers_alone() -> None:
    made = synthetic(LENGTHS, seed=2)
    factors, stored = (analysis.head_diversity(write(made, f"d-{keep}", keep)) for keep in ("factors", "statistics"))
    np.testing.assert_allclose(stored.diversity, factors.diversity, rtol=1e-5)
    assert "distance" not in stored
    assert "factors" in stored.attrs["left_out"]
    with pytest.raises(TierError, match="all documents"):
        analysis.head_diversity(open_atlas("memory://d-statistics"), documents=["doc-0"])
