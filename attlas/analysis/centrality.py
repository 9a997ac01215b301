"""Which tokens matter in a graph of attention: degrees, betweenness, eigenvector centrality, PageRank, communities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import xarray as xr

from attlas.errors import InputError
from attlas.parse import parse_instance, parse_names, parse_seed, parse_share

__all__ = ["MEASURES", "centrality"]

MEASURES = {
    "in_degree": ("queries that have an edge to the token", "1"),
    "out_degree": ("keys that the token has an edge to", "1"),
    "received": ("sum of the weights of edges to the token", "1"),
    "given": ("sum of the weights of edges from the token", "1"),
    "betweenness": ("share of shortest paths through the token, an edge being 1 / weight long (Brandes 2001)", "1"),
    "eigenvector": ("leading eigenvector of the symmetrised weights, (W + W.T) / 2, of length 1 (Bonacich 1972)", "1"),
    "pagerank": ("PageRank along the edges, from query to key (Page et al. 1999)", "1"),
    "community": ("number of the token's community, by Louvain on the symmetrised weights (Blondel et al. 2008)", "1"),
}
"""Measure -> definition, units."""
BETWEENNESS_STEPS = 20_000_000
"""Nodes times edges that betweenness may take: about a minute."""


def centrality(
    graph: nx.DiGraph, *, measures: Sequence[str] | str | None = None, damping: float = 0.85, seed: int = 0
) -> xr.Dataset:
    """Centralities of every token of a graph, each (token,).

    >>> found = attlas.analysis.graph(atlas, layer=1, head=0, mass=0.9)
    >>> table = attlas.analysis.centrality(found, measures=["in_degree", "pagerank"])
    >>> int(table.pagerank.argmax()), round(float(table.pagerank.sum()), 6)
    (0, 1.0)

    measures: of MEASURES, None for all; betweenness is then left out of a graph that is too large for it, which
    `attrs["left_out"]` says, and asked for by name it is refused. damping: of PageRank. seed: of communities.
    In causal attention no edge leads to a later token: PageRank then gathers at the beginning, whatever a head does,
    and a directed eigenvector is the first token alone, which is why that of the symmetrised weights is given. Compare
    with the same measure of another head or text, not with an even spread. Raises InputError.
    """
    parse_instance(graph, "graph", nx.DiGraph, "give what analysis.graph returns")
    names = tuple(MEASURES) if measures is None else parse_names(measures, "measures")
    wrong = [name for name in names if name not in MEASURES]
    if wrong or graph.number_of_nodes() == 0:
        raise InputError(
            f"there is no measure {wrong[0]!r}: choose of {', '.join(MEASURES)}" if wrong else "the graph has no node"
        )
    damping, seed = parse_share(damping, "damping"), parse_seed(seed)
    steps, attributes = graph.number_of_nodes() * graph.number_of_edges(), dict(graph.graph)
    if "betweenness" in names and steps > BETWEENNESS_STEPS:
        told = f"betweenness of {graph.number_of_nodes()} tokens and {graph.number_of_edges():,} edges takes too long"
        if measures is not None:
            raise InputError(f"{told}: keep fewer edges, such as top=3, or leave it out")
        names, attributes["left_out"] = tuple(name for name in names if name != "betweenness"), told
    variables = {
        name: (
            "token",
            np.array([values[node] for node in graph]),
            dict(zip(("long_name", "units"), MEASURES[name], strict=True)),
        )
        for name in names
        for values in [_measure(graph, name, damping, seed)]
    }
    return xr.Dataset(
        variables,
        {
            "token": ("token", np.array([str(node) for node in graph]) if _named(graph) else list(graph)),
            "text": ("token", np.array([str(facts.get("token", "")) for _, facts in graph.nodes(data=True)])),
        },
        {**attributes, "question": "centrality", "damping": damping},
    )


def _named(graph: nx.DiGraph) -> bool:
    return any(isinstance(node, str) for node in graph)


def _measure(graph: nx.DiGraph, name: str, damping: float, seed: int) -> Any:
    """node -> value."""
    if name in {"in_degree", "out_degree"}:
        return dict(graph.in_degree() if name == "in_degree" else graph.out_degree())
    if name in {"received", "given"}:
        return dict((graph.in_degree if name == "received" else graph.out_degree)(weight="weight"))
    if name == "betweenness":
        longer = nx.DiGraph()
        longer.add_nodes_from(graph)
        longer.add_edges_from((a, b, {"length": 1 / weight}) for a, b, weight in graph.edges(data="weight"))
        return nx.betweenness_centrality(longer, weight="length")
    if name == "pagerank":
        return nx.pagerank(graph, alpha=damping, weight="weight", tol=1e-12, max_iter=1000)
    both = _symmetrised(graph)
    if name == "eigenvector":
        return _leading(both)
    groups = nx.community.louvain_communities(both, weight="weight", seed=seed)
    ordered = sorted(groups, key=lambda group: (-len(group), min(map(str, group))))
    return {node: number for number, group in enumerate(ordered) for node in group}


def _symmetrised(graph: nx.DiGraph) -> nx.Graph:
    both = nx.Graph()
    both.add_nodes_from(graph)
    for a, b, weight in graph.edges(data="weight"):
        before = both.get_edge_data(a, b, {"weight": 0.0})["weight"]
        both.add_edge(a, b, weight=before + (weight if a == b else weight / 2))
    return both


def _leading(both: nx.Graph) -> dict[Any, float]:
    """The leading eigenvector, which is none below zero; tokens apart from its component have 0."""
    w_NN = nx.to_scipy_sparse_array(both, weight="weight", format="csr", dtype=float)
    if w_NN.shape[0] < 3 or w_NN.nnz == 0:
        values, vectors = np.linalg.eigh(w_NN.toarray())
        vector = vectors[:, int(values.argmax())]
    else:
        from scipy.sparse.linalg import eigsh

        _, vectors = eigsh(w_NN, k=1, which="LA", v0=np.ones(w_NN.shape[0]), tol=0)
        vector = vectors[:, 0]
    vector = np.abs(vector)
    return dict(zip(both, (vector / np.linalg.norm(vector)).tolist(), strict=True))
