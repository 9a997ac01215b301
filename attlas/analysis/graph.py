"""Attention as a graph: tokens are nodes, and weights that the edge rule keeps are edges, from query to key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from attlas.analysis.choosing import choose_document
from attlas.analysis.mean_map import mean_blocks
from attlas.errors import InputError
from attlas.parse import parse_count, parse_fraction, parse_instance, parse_output, refuse
from attlas.storage import Atlas
from attlas.storage.stores import Where
from attlas.storage.tile import existing_label

__all__ = ["graph", "graph_of", "write_graph"]

Floats = NDArray[np.float64]

MOST_EDGES = 4_000_000
"""Edges that a graph may have: about 2 GB in networkx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRule:
    """Which weights of a row are edges. One of the three is given.

    threshold: those not below it. top: so many of the largest, the earlier key first of equal ones. mass: the fewest
    that hold so much of the row's weight. A weight of zero never is one.
    """

    threshold: float | None
    top: int | None
    mass: float | None

    def edges(self, a_QK: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the edges, row by row, the largest weight first."""
        order_QK = np.argsort(-a_QK, axis=1, kind="stable")
        sorted_QK = np.take_along_axis(a_QK, order_QK, axis=1)
        kept_QK = sorted_QK > 0
        if self.threshold is not None:
            kept_QK &= sorted_QK >= self.threshold
        elif self.top is not None:
            kept_QK[:, self.top :] = False
        else:
            assert self.mass is not None
            before_QK = np.cumsum(sorted_QK, axis=1) - sorted_QK
            kept_QK &= before_QK < self.mass * sorted_QK.sum(axis=1, keepdims=True)
        row_E, place_E = np.nonzero(kept_QK)
        return row_E, order_QK[row_E, place_E]

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"weights of at least {self.threshold:g}"
        return f"the {self.top} largest of a row" if self.top is not None else f"{self.mass:.0%} of a row"


def graph(
    atlas: Atlas | Where,
    document: str | None = None,
    *,
    layer: int,
    head: int | str = "mean",
    kind: str | None = None,
    threshold: float | None = None,
    top: int | None = None,
    mass: float | None = None,
) -> nx.DiGraph:
    """The attention of one head, or the mean over the heads of a layer, as a directed graph.

    >>> found = attlas.analysis.graph(atlas, layer=1, head=0, top=1)
    >>> found.number_of_nodes(), found.number_of_edges(), found.nodes[106]["token"]
    (146, 146, 'c')
    >>> [(key, round(edge["weight"], 3)) for _, key, edge in found.out_edges(106, data=True)]
    [(49, 0.997)]

    document: may be left out where the atlas holds one. kind: of its kinds, the first by default. layer, head: the
    model's indices, negative from the end. threshold, top, mass: the edge rule, one of the three: weights of at least
    `threshold`, the `top` largest of each row, or the fewest that hold `mass` of it. Nodes are places in the document,
    each with `token`, `token_id` and `position`; of cross attention "query 3" and "key 5". An edge has `weight`.
    Memory: some rows of weights, and the graph. Raises InputError, also where there would be more than MOST_EDGES
    edges; DocumentMissingError; TierError.
    """
    atlas, document, kind = choose_document(atlas, document, kind)
    rule = _parse_rule(threshold, top, mass)
    attention = atlas.attention(document, kind)
    attention = attention.sel(layer=existing_label(attention, "layer", layer))
    if not (isinstance(head, str) and head == "mean"):
        if isinstance(head, str):
            raise refuse(head, "head", 'give a number, or "mean"')
        attention = attention.sel(head=[existing_label(attention, "head", head)])
    made = _graph(attention, rule, crosses=kind == "cross")
    made.graph |= {"model": str(atlas.model.get("name")), "layer": int(attention["layer"]), "head": str(head)}
    return made


def graph_of(
    weights: xr.DataArray, *, threshold: float | None = None, top: int | None = None, mass: float | None = None
) -> nx.DiGraph:
    """Any weights (query, key) as a graph by the same rules: of a rollout, a flow, a mean over layers.

    >>> whole = page.attention.isel(layer=slice(0, 2)).mean(("layer", "head"))
    >>> attlas.analysis.graph_of(whole, threshold=0.5).number_of_edges()
    9

    weights: (query, key), with `query_token` and `key_token` where it has them. threshold, top, mass: as of `graph`.
    Raises InputError where `weights` has other dimensions, or too many edges.
    """
    parse_instance(weights, "weights", xr.DataArray, "give weights (query, key)")
    if set(weights.dims) != {"query", "key"}:
        raise refuse(weights.dims, "weights", "give weights of the dimensions query and key")
    rule = _parse_rule(threshold, top, mass)
    return _graph(
        weights.transpose("query", "key").expand_dims("head"), rule, crosses=weights.attrs.get("kind") == "cross"
    )


def write_graph(made: nx.DiGraph, path: str | Path) -> None:
    """Write a graph as .graphml or .gexf, which Gephi, Cytoscape, igraph and yEd read.

    >>> attlas.analysis.write_graph(attlas.analysis.graph(atlas, layer=1, head=0, top=1), "head.graphml")

    made: of `analysis.graph`. path: of the file, which is replaced. Characters that XML has no place for are written as
    in a Python string. Raises InputError for another ending.
    """
    parse_instance(made, "graph", nx.DiGraph, "give what analysis.graph returns")
    writers = {".graphml": nx.write_graphml, ".gexf": nx.write_gexf}
    file = parse_output(path, "path", tuple(writers))
    plain = made.copy()
    plain.graph = {name: _for_xml(value) for name, value in made.graph.items()}
    for _, facts in plain.nodes(data=True):
        facts.update({name: _for_xml(value) for name, value in facts.items()})
    writers[file.suffix](plain, file)


def _graph(attention: xr.DataArray, rule: EdgeRule, *, crosses: bool) -> nx.DiGraph:
    """attention: (head, query, key), lazy or not; the mean over its heads is taken."""
    made = nx.DiGraph(document=str(attention.attrs.get("document_id", "")), edges=str(rule))
    query_Q, key_K = attention["query"].values, attention["key"].values
    name_of_query = {place: f"query {place}" if crosses else place for place in query_Q.tolist()}
    name_of_key = {place: f"key {place}" if crosses else place for place in key_K.tolist()}
    made.add_nodes_from(_nodes(attention, "key", name_of_key))
    if crosses:
        made.add_nodes_from(_nodes(attention, "query", name_of_query))
    for begin, a_QK in mean_blocks(attention, np.float64):
        row_E, column_E = rule.edges(a_QK)
        if made.number_of_edges() + len(row_E) > MOST_EDGES:
            raise InputError(
                f"{rule} make more than {MOST_EDGES:,} edges by query {int(query_Q[begin])}: keep fewer, with a larger "
                "threshold, a smaller top or mass, or fewer queries"
            )
        made.add_edges_from(
            (name_of_query[query], name_of_key[key], {"weight": weight})
            for query, key, weight in zip(
                query_Q[begin + row_E].tolist(), key_K[column_E].tolist(), a_QK[row_E, column_E].tolist(), strict=True
            )
        )
    return made


def _nodes(attention: xr.DataArray, dim: str, names: dict[int, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    columns = [name for name in ("token", "token_id") if f"{dim}_{name}" in attention.coords]
    values = [attention[f"{dim}_{name}"].values.tolist() for name in columns]
    for place, *facts in zip(names, *values, strict=True):
        yield names[place], {"position": place, **dict(zip(columns, facts, strict=True))}


def _parse_rule(threshold: Any, top: Any, mass: Any) -> EdgeRule:
    given = [name for name, value in (("threshold", threshold), ("top", top), ("mass", mass)) if value is not None]
    if len(given) != 1:
        raise InputError(
            f"the edge rule is {' and '.join(given) or 'not given'}: give one of threshold=0.1, top=3 or mass=0.9"
        )
    return EdgeRule(
        threshold=None if threshold is None else parse_fraction(threshold, "threshold"),
        top=None if top is None else parse_count(top, "top"),
        mass=None if mass is None else parse_fraction(mass, "mass"),
    )


def _for_xml(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "".join(
        c if c in "\t\n" or (c.isprintable() and c not in "\ufffe\uffff") or c == " " else ascii(c)[1:-1] for c in value
    )
