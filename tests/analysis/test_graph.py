"""Graphs of attention against networkx on the dense weights, and against the edge rules done row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import attlas
from attlas import analysis
from attlas.analysis import graph as graph_function
from attlas.analysis import mean_map
from attlas.analysis.leading_heads import induction_leader
from attlas.errors import InputError
from attlas.storage import AtlasWriter
from tests.families import BY_NAME, build_model, documents
from tests.storage.synthetic import synthetic

LENGTHS = (40, 23)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[attlas.Atlas, NDArray[np.float64]]:
    """An atlas, and the weights (layer, head, query, key) of its first document in float64."""
    one = synthetic(LENGTHS, seed=3)
    store = tmp_path_factory.mktemp("graph") / "a.zarr"
    writer = AtlasWriter.create(store, one.spec("factors"))
    for pack in one.packs:
        one.write_pack(writer, pack)
    return attlas.open_atlas(store), one.dense(0)


def edges_of(found: nx.DiGraph) -> dict[tuple[Any, Any], float]:
    return {(a, b): weight for a, b, weight in found.edges(data="weight")}


@pytest.mark.parametrize("block_bytes", [1, 8 * 40 * 7, 2**25])
def test_edges_are_those_of_the_dense_weights_whatever_the_blocks(
    made: tuple[attlas.Atlas, NDArray[np.float64]], monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(mean_map, "BLOCK_BYTES", block_bytes)
    atlas, a_LHQK = made
    layer = atlas.layers("self").index(atlas.layers("self")[-1])
    for head, a_QK in (("mean", a_LHQK[layer].mean(axis=0)), (1, a_LHQK[layer, 1])):
        found = analysis.graph(atlas, "doc-0", layer=-1, head=head, threshold=0.05)
        expected = {(q, k): a_QK[q, k] for q, k in zip(*np.nonzero(a_QK >= 0.05), strict=True)}
        assert edges_of(found) == pytest.approx(expected, abs=1e-6)
        assert list(found) == list(range(LENGTHS[0]))


def test_the_largest_and_the_fewest_that_hold_a_share(made: tuple[attlas.Atlas, NDArray[np.float64]]) -> None:
    atlas, a_LHQK = made
    first = atlas.layers("self")[0]
    top = analysis.graph(atlas, "doc-0", layer=first, head=0, top=3)
    share = analysis.graph(atlas, "doc-0", layer=first, head=0, mass=0.7)
    for query, row_K in enumerate(a_LHQK[0, 0]):
        seen = int((row_K > 0).sum())
        best = np.argsort(-row_K, kind="stable")[: min(3, seen)]
        assert set(top.successors(query)) == set(best.tolist())
        kept = sorted((row_K[key] for key in share.successors(query)), reverse=True)
        assert sum(kept) >= 0.7 - 1e-6 > sum(kept) - kept[-1] - 2e-6
        assert kept == pytest.approx(sorted(row_K, reverse=True)[: len(kept)], abs=1e-6)


def test_a_rule_by_hand() -> None:
    weights = xr.DataArray([[1.0, 0, 0], [0.25, 0.75, 0], [0.4, 0.4, 0.2]], dims=("query", "key"))
    weights = weights.assign_coords(query=[0, 1, 2], key=[0, 1, 2])
    assert set(analysis.graph_of(weights, top=1).edges) == {(0, 0), (1, 1), (2, 0)}  # of equals the earlier
    assert set(analysis.graph_of(weights, mass=0.8).edges) == {(0, 0), (1, 1), (1, 0), (2, 0), (2, 1)}
    assert set(analysis.graph_of(weights, threshold=0.4).edges) == {(0, 0), (1, 1), (2, 0), (2, 1)}


def test_centralities_are_those_of_the_dense_graph(made: tuple[attlas.Atlas, NDArray[np.float64]]) -> None:
    atlas, a_LHQK = made
    found = analysis.graph(atlas, "doc-0", layer=atlas.layers("self")[1], head="mean", threshold=0.0)
    table = analysis.centrality(found)
    w_NN = a_LHQK[1].mean(axis=0)
    dense = nx.from_numpy_array(w_NN, create_using=nx.DiGraph)
    both = nx.from_numpy_array((w_NN + w_NN.T) / 2)
    np.testing.assert_array_equal(table.in_degree, (w_NN > 0).sum(axis=0))
    np.testing.assert_array_equal(table.out_degree, (w_NN > 0).sum(axis=1))
    np.testing.assert_allclose(table.received, w_NN.sum(axis=0), atol=1e-5)
    np.testing.assert_allclose(table.given, w_NN.sum(axis=1), atol=1e-5)
    ranks = nx.pagerank(dense, alpha=0.85, tol=1e-12, max_iter=1000)
    np.testing.assert_allclose(table.pagerank, list(ranks.values()), atol=1e-6)
    np.testing.assert_allclose(
        table.eigenvector, list(nx.eigenvector_centrality_numpy(both, weight="weight").values()), atol=1e-5
    )
    for _, _, facts in dense.edges(data=True):
        facts["length"] = 1 / facts["weight"]
    np.testing.assert_allclose(
        table.betweenness, list(nx.betweenness_centrality(dense, weight="length").values()), atol=1e-6
    )
    assert table.community.values.max() < LENGTHS[0]
    assert all(table[name].attrs["units"] == "1" and table[name].attrs["long_name"] for name in table)


def test_communities_are_found() -> None:
    """Two groups that look at one another inside, and a thin edge between."""
    w_NN = np.full((8, 8), 0.0)
    w_NN[:4, :4] = w_NN[4:, 4:] = 0.25
    w_NN[7, 0] = 0.01
    labels = {name: np.arange(8) for name in ("query", "key")}
    found = analysis.centrality(analysis.graph_of(xr.DataArray(w_NN, labels, ("query", "key")), threshold=0.0))
    assert len(set(found.community.values[:4])) == len(set(found.community.values[4:])) == 1
    assert found.community.values[0] != found.community.values[4]


def test_cross_attention_has_tokens_of_two_texts() -> None:
    family = BY_NAME["t5"]
    model, inputs = build_model(family), documents(family)
    atlas = attlas.capture(model, inputs, "memory://graph-t5", overwrite=True)
    found = analysis.graph(atlas, "doc-0", kind="cross", layer=0, top=1)
    weights = atlas.attention("doc-0", "cross").sel(layer=0).mean("head").values
    assert {(a, b) for a, b in found.edges} == {
        (f"query {q}", f"key {k}") for q, k in enumerate(weights.argmax(axis=1))
    }
    assert found.number_of_nodes() == sum(weights.shape)


def test_graphs_are_read_again_elsewhere(made: tuple[attlas.Atlas, NDArray[np.float64]], tmp_path: Path) -> None:
    atlas, _ = made
    found = analysis.graph(atlas, "doc-0", layer=atlas.layers("self")[0], top=2)
    found.nodes[3]["token"] = "a\x1b\x00\ud800é"
    for ending, read in ((".graphml", nx.read_graphml), (".gexf", nx.read_gexf)):
        analysis.write_graph(found, tmp_path / f"g{ending}")
        again = read(tmp_path / f"g{ending}", node_type=int)
        assert edges_of(again) == pytest.approx(edges_of(found))
        assert again.nodes[3]["token"] == "a\\x1b\\x00\\ud800é"
    assert found.nodes[3]["token"] == "a\x1b\x00\ud800é"
    with pytest.raises(InputError, match=r"ends in \.graphml or \.gexf"):
        analysis.write_graph(found, tmp_path / "g.dot")


def test_what_cannot_be_is_one_line(
    made: tuple[attlas.Atlas, NDArray[np.float64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas, _ = made
    layer = atlas.layers("self")[0]
    for choices, told in (
        ({}, "the edge rule is not given"), ({"top": 1, "mass": 0.5}, "the edge rule is top and mass"),
        ({"top": 0}, "top"), ({"threshold": 2}, "threshold"), ({"top": 1, "head": "max"}, "head"),
        ({"top": 1, "head": 99}, "there is no head 99"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            analysis.graph(atlas, "doc-0", layer=layer, **choices)
    monkeypatch.setitem(graph_function.__globals__, "MOST_EDGES", 50)
    with pytest.raises(InputError, match="more than 50 edges by query 0: keep fewer"):
        analysis.graph(atlas, "doc-0", layer=layer, threshold=0.0)
    few = analysis.graph(atlas, "doc-0", layer=layer, top=1)
    with pytest.raises(InputError, match="there is no measure 'closeness'"):
        analysis.centrality(few, measures=["closeness"])
    monkeypatch.setitem(analysis.centrality.__globals__, "BETWEENNESS_STEPS", 10)
    with pytest.raises(InputError, match="betweenness of 40 tokens and 40 edges takes too long"):
        analysis.centrality(few, measures=["betweenness"])
    assert "betweenness" not in analysis.centrality(few)
    assert "takes too long" in analysis.centrality(few).attrs["left_out"]


def test_the_graph_of_the_induction_head_links_tokens_to_what_followed_their_earlier_copy(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(np.arange(97, 123))[:20].tolist()  # letters, each once a period
    atlas = attlas.capture("demo", [ids * 3], tmp_path / "r.zarr")
    leader = induction_leader(atlas["doc-0"])
    found = analysis.graph(atlas, layer=leader.layer, head=leader.head, top=1)
    offset = len(atlas["doc-0"]["query"]) - 60  # a token that the model puts first
    repeated = range(20 + offset, 60 + offset)
    right = [next(iter(found.successors(query))) in {query - 19, query - 39} for query in repeated]
    assert np.mean(right) > 0.9
